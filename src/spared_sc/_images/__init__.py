"""Patches of images: lazily from files, arrays and SpatialData elements, or from a store on disk; arrays out."""
