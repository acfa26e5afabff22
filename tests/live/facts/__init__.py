"""What is asserted about Earth Engine: the topics, and the facts of each.

The topics are all that builder and emulator rely on, in this order: collections and values, images, assets, the client,
and what was met or documented later. Every topic has a fact, every fact a topic; a test counts both.
"""

from __future__ import annotations

from _fact import Fact

from facts import assets, builder, client, collections, images, values

TOPICS = {
    "date windows": "filterDate includes its start and excludes its end; times are UTC milliseconds",
    "null": "first() of nothing is null; null for a required argument fails the whole request, inside a map as well",
    "reducing nothing": "a reducer over an empty collection gives an image without bands, of which none can be selected",
    "missing bands": "a band that is not there is refused with its name and those that are there",
    "limits": "5,000 elements, 48 MB and 32,768 pixels a side; lists and expansions are bounded as well",
    "refusals": "what is asked wrongly is 400, and an unknown asset 400 or 404 with its id",
    "random points": "randomPoints depends on its seed alone",
    "nearest neighbour": "pixels are those nearest, unless resample was called on an image with a grid of its own",
    "pixel grids": "computePixels computes on the grid that is asked for and snaps nothing",
    "reproject": "reproject computes on its grid; what follows resamples from there",
    "masks in answers": "clip masks; masked pixels are 0 in NPY; unmask keeps the footprint by default",
    "casts": "integer casts truncate toward zero and clamp; round goes to the nearest integer",
    "arithmetic": "results of operations on pixels: division by zero, types, masks",
    "slope": "Terrain.slope is in degrees, of the four neighbours on the image's own grid",
    "regions": "reduceRegion weighs a pixel by its share inside, in steps of 1/256; nothing there is null",
    "band names": "toBands prefixes the index of the image; cat numbers names that clash",
    "dates of images": "date() reads system:time_start; the index of a Sentinel-2 scene is its product's stem",
    "Sentinel-2": "bands, types and grids of both levels; a location near a zone border has scenes of both zones",
    "Sentinel-1": "bands follow the polarisation, in dB, with the angle of incidence",
    "ERA5-Land": "one image a month, masked over sea, on a grid of 0.1 degree",
    "Dynamic World": "labels 0-8, one image for each scene that was clear enough, from the middle of 2015",
    "static assets": "WorldCover is a collection of one image; elevation, canopy and ecoregions as the catalog needs them",
    "the client": "which requests it makes, and where it keeps the error of HTTP",
    "calls of the client": "assets, listings, downloads, thumbnails, maps and tables answer",
    "quota": "the header that announces restricted mode, compute time in profiles, and refusals of the quota",
    "homogeneous collections": "reductions need one set of bands and one type of each, ranges included",
    "unbounded collections": "a composite takes its inputs from where it is computed; bounds change nothing there",
    "error margins": "geometry operations between projections need a margin, where none is the default",
    "ties": "of tied values the mode is the smallest",
    "If": "Algorithms.If gives the branch of its condition",
    "dates": "forms of text that are dates, and arithmetic on them",
    "string filters": "a filter may be a condition in words",
    "properties": "which operations keep an image's properties, and which lose them",
    "metadata": "dimensions, grid and footprint of derived images",
    "fractional masks": "masks are fractions, weigh in reducers, and survive arithmetic",
    "pyramids": "coarser requests read means of continuous bands, and modes or samples of classes",
    "QA60": "the old cloud mask is masked from 2022-02 to 2024-02; its successors exist afterwards",
    "toList": "tuples, optional inputs and repetitions of Reducer.toList",
    "asset names": "an asset has several names, which all lead to it",
    "numbers and lists": "values without pixels",
    "the builder": "the requests that mmearth-data build makes, sent as it makes them",
}
"""Topic -> what is asserted, in a line."""

FACTS: tuple[Fact, ...] = (
    *builder.FACTS,
    *collections.FACTS,
    *images.FACTS,
    *assets.FACTS,
    *values.FACTS,
    *client.FACTS,
)
