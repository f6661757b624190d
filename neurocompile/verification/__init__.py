"""
Hold every stage against the one before it, spike by spike, on one clock.

    torch        the trained network in PyTorch, batch norms and all (where there is one)
    float        the folded graph of the program, in float64
    quantised    the integers as real numbers: weights, biases, thresholds and decays are rounded, states are not
    fixedpoint   the integers
    the target   the same integers, run by the target itself

`stages` runs them, `tallies` count where two of them differ (sums over samples, so that chunks and
processes add up), `stream` goes over the samples, `examination` looks closely at a few of them: why
a layer's spikes differ. `report` is what comes out.
"""
