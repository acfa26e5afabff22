"""Pages for people: single HTML files that need no network, with Bokeh's figures in them."""
