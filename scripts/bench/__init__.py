"""The benchmark behind `make bench`; scripts/benchmark.py is its command.

clients/     the programs that are measured: two floors, flynn and its peers, all with the same few functions
server       the server they talk to: answers a real llama-server once gave, repeated and sent in large pieces
subject      what is measured as flynn: a copy of the package, compiled; and its wheel
launch       starts whole processes and measures them from outside
work         measures inside a process: CPU and wall per token, latency
measures     what is measured, in which order
figures      medians, ratios, exponents
report       the table, benchmarks.json, the chart
"""
