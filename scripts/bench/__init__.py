"""The benchmark behind `make bench`; scripts/benchmark.py is its command.

    clients/     the programs that are measured: two floors, Flynn and its peers, all with the same few functions
    subjects     what is measured and where it is installed
    catalogue    what is measured of them, and which figures come of it
    rounds       runs all that, interleaved
    launch       measures whole processes from outside
    work, curves, real, sizes, wheel     measure one subject, most of them from inside its process
    server       the server they talk to; recording: what it sends; record: where that comes from
    figures      medians, ratios, exponents
    report, readme, chart     show the results
"""
