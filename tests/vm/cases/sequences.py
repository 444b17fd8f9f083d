# SPDX-License-Identifier: GPL-2.0-only
"""
Compares the module with its model; see fuzz.py.

The environment variables FENCE_TEST_STEPS and FENCE_TEST_SEED set the number of steps and the
first seed; FENCE_TEST_PLANT names a model that is wrong on purpose.
"""

import os
from errno import ESTALE
from itertools import islice

import fuzz
import kernel
from case import Case, case
from fence import CaseFailed, Stopwatch, equal, true
from model import Answer, Model, Mount

STEPS = 500 if kernel.INSTRUMENTED else 3000


class TakesALateWord(Model):
    """A failed request accepts a write to fenced."""

    def do_write(self, name: str, rid: str, file: str, text: str) -> Answer:
        answer = super().do_write(name, rid, file, text)
        return len(text) if answer == -ESTALE else answer


class TellsTheYoungest(Model):
    """Next returns the finished request that was started last."""

    def next(self, mount: Mount) -> Answer:
        requests = dict(reversed(mount.requests.items()))
        return super().next(Mount(requests, mount.parent))


class ForgetsSecondReasons(Model):
    """A request that is started again keeps only its first reason."""

    def start(self, mount: Mount, rid: str, address: str, reason: str) -> Answer:
        return 0 if int(rid, 16) in mount.requests else super().start(mount, rid, address, reason)


class StopsNothing(Model):
    """Requests outlive a stop."""

    def stop(self, mount: Mount) -> None:
        pass


class ReadsWhatWasFreed(Model):
    """An open file can still be read after its request is gone."""

    def do_read_open(self, handle: str) -> Answer:
        if handle not in self.files:
            return None
        request, file = self.files[handle]
        return request.value(file)


class NeverTimesOut(Model):
    """An unanswered request never times out."""

    def do_pass(self) -> Answer:
        self.time_passed = True
        return 0


# Wrong models, and the number of steps needed to expose them.
PLANTS = {
    TakesALateWord: 4,
    TellsTheYoungest: 6,
    ForgetsSecondReasons: 4,
    StopsNothing: 4,
    ReadsWhatWasFreed: 5,
    NeverTimesOut: 5,
}


def wanted_model() -> type[Model]:
    plants = {plant.__name__: plant for plant in PLANTS}
    name = os.environ.get("FENCE_TEST_PLANT")
    if name and name not in plants:
        raise CaseFailed(f"there is no plant called {name}; there are: {' '.join(plants)}")
    return plants[name] if name else Model


@case
def the_module_does_what_the_model_does(case: Case) -> None:
    """In random sequences of steps the module gives the model's answer to every step."""
    steps = int(os.environ.get("FENCE_TEST_STEPS") or STEPS)
    seed = int(os.environ.get("FENCE_TEST_SEED") or 1)
    fuzz.say(f"sequences from seed {seed} on")
    watch = Stopwatch()
    runner = fuzz.Runner(wanted_model(), case.log)
    with fuzz.quiet_console():
        found = fuzz.search(runner, seed, steps)
    case.note(
        f"{runner.taken} steps in {watch.seconds():.0f} s; "
        f"{runner.uncertain} sequences were held up and ended without a verdict"
    )
    if found:
        seed, difference = found
        lines = [*fuzz.describe(difference), f"the same again: make fuzz SEED={seed} STEPS=1"]
        raise CaseFailed("\n".join(["the module differs from the model:", *lines]))


@case
def a_model_that_is_wrong_is_found(case: Case) -> None:
    """Each wrong model is exposed by a sequence of minimal length."""
    # This tests the models, so if it takes minutes, one is enough.
    plants = {StopsNothing: PLANTS[StopsNothing]} if kernel.INSTRUMENTED else PLANTS
    for plant, steps in plants.items():
        watch = Stopwatch()
        runner = fuzz.Runner(plant, case.log)
        lengths = []
        with fuzz.quiet_console():
            for _, difference in islice(fuzz.differences(runner, 1, 20_000), fuzz.TRIES):
                shortest = runner.shrink(difference)
                lengths.append(len(shortest.steps))
                if lengths[-1] <= steps:
                    break
        true(bool(lengths), f"{plant.__name__} is found out")
        case.note(f"{plant.__name__}, found in {watch.seconds():.0f} s:")
        for line in fuzz.describe(shortest):
            case.note(line)
        equal(lengths[-1], steps, f"steps that are left of {plant.__name__}")
