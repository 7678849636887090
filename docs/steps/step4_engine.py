"""Step 4: the engine does what step 3 does, with whole batches. What is left to write is what decides: the detector."""

from detector.app import branching
from exactly_once import run

if __name__ == "__main__":
    run("detector", branching, group="fraud-detector")
