"""
The `loihi2` target: Lava processes for Loihi 2, run on Lava's fixed-point CPU simulator.

Lava is archived by Intel; lava-nc 0.10.0 is its last release and the one this target is for.
`limits`, `lower` and `run` need numpy only; `worker` and what it imports need Lava.
"""
