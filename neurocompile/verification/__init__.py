"""
Hold every stage against the one before it, spike by spike, on one clock.

    torch        the trained network in PyTorch, batch norms and all (where there is one)
    float        the folded graph of the program, in float64
    quantised    the integers as real numbers: weights, biases, thresholds and decays are rounded, states are not
    fixedpoint   the integers
    the target   the same integers, run by the target itself

Stages that compute with the same integers must match, one spike that differs fails; others are measured, and
held against floors that a user sets (`budgets`).

`stages` says which there are and runs them, `stream` goes over all samples and `tallies` count where two
differ: sums, so that chunks and processes (`jobs`, `ranks`) add up, and can be kept (`resume`). `lookup`
finds the membranes behind the first spikes that differ; `examine` looks closely at a few samples: why they
differ (`causes`), whose error that is (`forcing`), and what would help (`alternatives`). `report` is what
comes out, `terminal` what people see of it; `golden` keeps some of it for years.
"""
