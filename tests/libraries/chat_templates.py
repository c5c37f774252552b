"""Chat templates for pairs, in the ways in which rerankers write them."""

from __future__ import annotations

# an instruction of the role "system" with a default, in the middle of a message
QWEN3 = """\
{%- set texts = namespace(system="Given a web search query, retrieve relevant passages") -%}
{%- for message in messages if message.role == "system" -%}
{%- set texts.system = message.content -%}
{%- endfor -%}
<|im_start|>system
Judge whether the Document meets the requirements. Answer "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ texts.system }}
<Query>: {{ (messages | selectattr("role", "eq", "query") | first).content }}
<Document>: {{ (messages | selectattr("role", "eq", "document") | first).content }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"""
# the query as system, the document as user, both trimmed; no instruction
ZERANK = """\
{%- for message in messages -%}
{%- if message.role == "query" -%}
<|im_start|>system
{{ message.content | trim }}<|im_end|>
{% elif message.role == "document" -%}
<|im_start|>user
{{ message.content | trim }}<|im_end|>
<|im_start|>assistant
{% endif -%}
{%- endfor -%}"""
# parts of contents; text after the document without a special token between; an optional message
MXBAI = """\
{%- for message in messages %}
{%- if message.role == "system" %}
{{- "<|im_start|>system\\n" + message.content[0].text + "<|im_end|>\\n" }}
{%- elif message.role == "query" %}
{{- "<|im_start|>user\\nquery: " + message.content[0].text + "\\n" }}
{%- else %}
{{- "document: " + message.content[0].text }}
{{- "\\nYou are a search relevance expert. Provide 0 or 1.\\nRelevance:<|im_end|>\\n" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- "<|im_start|>assistant\\n" }}
{%- endif %}"""
TEMPLATES = {"qwen3": QWEN3, "zerank": ZERANK, "mxbai": MXBAI}
