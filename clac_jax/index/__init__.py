"""An index of crystals: their vectors under one model, with formulas, properties and texts."""
