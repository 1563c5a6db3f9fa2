import sys
from tests.simulation.plan import plan_of
from tests.simulation.world import simulate
import time

bad = []
t0 = time.process_time()
a, b = int(sys.argv[1]), int(sys.argv[2])
for seed in range(a, b):
    w = simulate(plan_of(seed))
    if w.violation:
        bad.append(seed)
        print(seed, str(w.violation)[:600], [f.name for f in w.plan.faults])
        if "-t" in sys.argv:
            print(w.trace.text(int(sys.argv[sys.argv.index("-t") + 1])))
    elif "-t" in sys.argv:
        print(w.trace.text(int(sys.argv[sys.argv.index("-t") + 1])))
print((time.process_time() - t0) / (b - a), len(bad), "bad")
