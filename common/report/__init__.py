"""From run folders to tables, pictures, verdicts and one page. Reads JSON only: no model, no data set, no training."""
