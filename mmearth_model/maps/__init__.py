"""Maps: predictions and embeddings of scenes and stores, polygons, and areas."""
