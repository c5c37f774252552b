module edgerank-example

go 1.27.3
