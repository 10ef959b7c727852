"""How results and progress are laid out for a terminal, and as JSON.

output      what is printed, and where; vdatrain's too
plan        a prediction of `vdaprep plan`
progress    a conversion while it runs, and what it has made
picture     what each trajectory looks like after `vdaprep convert`
shard       what a shard holds, for `vdaprep inspect`
stats       figures of data sets, for `vdaprep stats`
"""
