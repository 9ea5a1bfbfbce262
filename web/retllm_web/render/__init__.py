"""Numbers and rows prepared for display: charts, heat maps, timelines, filters in addresses."""
