"""A page of HTML about a comparison: one file that needs no other and no network.

content     what a page shows
page        a page written: template, scripts, policy for browsers
charts      Plotly figures
clips       clips as images for the player
comparison  the page of `vdatrain compare --report`
study       the page of `vdatrain study`
"""
