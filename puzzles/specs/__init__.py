"""The puzzles, sheet by sheet: statement, inputs, launch, answer, hints and picture in one place each."""
