"""The benchmark behind `make bench`; scripts/benchmark.py is its command.

clients/     the measured programs: two floors, Flynn and its peers, all with the same functions
subjects     the floors, Flynn and the peers, and their environments
catalogue    the measures, and the figures that they yield
rounds       runs all measures of all subjects in interleaved rounds
launch       measures whole processes from outside
work, curves, real, sizes, wheel     measure one subject, most of them from inside its process
server       the benchmark's server; recording: its responses; record: records them from a real llama-server
figures      medians, ratios, exponents
report, readme, chart     format the results
"""
