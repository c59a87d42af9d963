"""Tools around training: verify exact resume, measure speed, analyze a compiled step, explain a non-finite step."""
