"""What the commands of vdatrain print.

output      tables and the rank before a sentence
progress    how a run is shown while it trains
"""
