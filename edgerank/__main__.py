"""``python -m edgerank``"""

from edgerank.cli import main

main()
