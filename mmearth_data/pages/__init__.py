"""HTML pages: single files that need no network and contain Bokeh figures."""
