"""From a paper's exhibits and claims to one command: measured seed by seed, drawn, judged, published. Knows no paper.

exhibit.py   a table or figure: what it measures on a seed, how it is drawn; means over seeds
paper.py     the flags that all papers share, and what a paper says of itself
command.py   `reproduce(paper, options)`: the command
evidence.py  run records, and the numbers that claims are judged by
listing.py   --list
publish.py   --publish
"""
