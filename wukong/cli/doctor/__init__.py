"""`wukong doctor`: what is wrong with this node, its machine and its cluster, and what to do about it.

One module per thing that is looked at. Each has a thin shell that collects facts and a pure function that judges them;
`examine` puts them in order, `bundle` packs what may be shown to others.
"""
