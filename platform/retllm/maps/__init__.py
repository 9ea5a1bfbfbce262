"""Maps of collections: lay out the vectors of the items in two dimensions, and read the layout."""
