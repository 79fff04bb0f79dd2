//! Does it get slower with the jobs it keeps? The same calls against a daemon with few and one with many, in turns.
