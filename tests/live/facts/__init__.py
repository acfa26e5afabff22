"""Facts about Earth Engine by topic.

The topics cover everything that builder and emulator rely on, in this order: collections and values, images, assets,
the client, and later findings. A test checks that every topic has a fact and every fact a topic.
"""

from __future__ import annotations

from _fact import Fact

from facts import assets, builder, client, collections, images, values

TOPICS = {
    "date windows": "filterDate includes its start and excludes its end; times are UTC milliseconds",
    "null": "first() of an empty collection is null; null for a required argument fails the request, even inside a map",
    "reducing nothing": "a reducer over an empty collection gives an image without bands, so none can be selected",
    "missing bands": "a missing band is refused with its name and the available bands",
    "limits": "5,000 elements, 48 MB and 32,768 pixels per side; lists and expansions are bounded too",
    "refusals": "an invalid request is 400, and an unknown asset 400 or 404 with its id",
    "random points": "randomPoints depends only on its seed",
    "nearest neighbour": "pixels are the nearest ones, unless resample was called on an image with its own grid",
    "pixel grids": "computePixels computes on the requested grid without snapping",
    "reproject": "reproject computes on its grid; later operations resample from there",
    "masks in answers": "clip masks; masked pixels are 0 in NPY; unmask keeps the footprint by default",
    "casts": "integer casts truncate toward zero and clamp; round goes to the nearest integer",
    "arithmetic": "results of pixel operations: division by zero, types, masks",
    "slope": "Terrain.slope is in degrees, from the four neighbours on the image's own grid",
    "regions": "reduceRegion weights a pixel by its share inside, in steps of 1/256; an empty result is null",
    "band names": "toBands prefixes the index of the image; cat numbers conflicting names",
    "dates of images": "date() reads system:time_start; the index of a Sentinel-2 scene is its product's stem",
    "Sentinel-2": "bands, types and grids of both levels; a location near a zone border has scenes of both zones",
    "Sentinel-1": "bands follow the polarisation, in dB, with the angle of incidence",
    "ERA5-Land": "one image per month, masked over sea, on a grid of 0.1 degree",
    "Dynamic World": "labels 0-8, one image per sufficiently clear scene, since mid-2015",
    "static assets": "WorldCover is a collection of one image; elevation, canopy and ecoregions match the catalog",
    "the client": "which requests it makes, and where it keeps the HTTP error",
    "calls of the client": "assets, listings, downloads, thumbnails, maps and tables work",
    "quota": "the header of restricted mode, compute time in profiles, and quota refusals",
    "homogeneous collections": "reductions need the same bands with the same types, ranges included",
    "unbounded collections": "a composite takes its inputs from where it is computed; bounds change nothing there",
    "error margins": "geometry operations between projections need an error margin unless there is a default",
    "ties": "among tied values, the mode is the smallest",
    "If": "Algorithms.If returns the branch of its condition",
    "dates": "accepted date strings, and date arithmetic",
    "string filters": "a filter may be a condition given as text",
    "properties": "which operations keep an image's properties, and which drop them",
    "metadata": "dimensions, grid and footprint of derived images",
    "fractional masks": "masks are fractions, act as weights in reducers, and survive arithmetic",
    "pyramids": "coarser requests read means of continuous bands, and modes or samples of classes",
    "QA60": "the old cloud mask is masked from 2022-02 to 2024-02; its successors exist afterwards",
    "toList": "tuples, optional inputs and repetitions of Reducer.toList",
    "asset names": "an asset has several names, all of which resolve to it",
    "numbers and lists": "values without pixels",
    "the builder": "the requests of mmearth-data build, exactly as it sends them",
}
"""Topic -> one-line summary of its facts."""

FACTS: tuple[Fact, ...] = (
    *builder.FACTS,
    *collections.FACTS,
    *images.FACTS,
    *assets.FACTS,
    *values.FACTS,
    *client.FACTS,
)
