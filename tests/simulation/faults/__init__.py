"""What goes wrong. A new fault is a class with a docstring, in FAULTS."""

from tests.simulation.faults.engines import (
    AnsweredTwice,
    EngineHangs,
    EngineKilled,
    EnginesDieTogether,
    EngineSlow,
    EngineStands,
    NodeLost,
    StreamEndLost,
)
from tests.simulation.faults.fault import Fault, Meddling
from tests.simulation.faults.processes import (
    CrashesAsItAsks,
    DispatcherCrashes,
    DispatcherFreezes,
    DispatcherIsReplacedMeanwhile,
    FreezesAsItAsks,
    GatewayCrashes,
    GatewayFreezes,
    Redeploy,
)
from tests.simulation.faults.storage import (
    CommitAnswerLost,
    CommitRefused,
    LedgerAnswersLate,
    LedgerAway,
    LedgerBusy,
    LedgerSlow,
    MissingForAMoment,
    ObjectsAway,
    ObjectsSlow,
    OtherStoreMounted,
    PutAnswerLost,
    PutRefused,
    ResultsDamaged,
)
from tests.simulation.faults.surroundings import (
    DatabaseClockSteps,
    ProcessClockSteps,
    RequestsLost,
    ResponsesLost,
    WindowOver,
)

FAULTS: tuple[type[Fault], ...] = (
    LedgerBusy,
    LedgerAway,
    CommitRefused,
    CommitAnswerLost,
    LedgerSlow,
    LedgerAnswersLate,
    PutRefused,
    PutAnswerLost,
    ObjectsSlow,
    ObjectsAway,
    MissingForAMoment,
    OtherStoreMounted,
    ResultsDamaged,
    DispatcherCrashes,
    GatewayCrashes,
    DispatcherFreezes,
    DispatcherIsReplacedMeanwhile,
    GatewayFreezes,
    Redeploy,
    CrashesAsItAsks,
    FreezesAsItAsks,
    EngineKilled,
    EnginesDieTogether,
    NodeLost,
    EngineHangs,
    EngineStands,
    EngineSlow,
    StreamEndLost,
    AnsweredTwice,
    DatabaseClockSteps,
    ProcessClockSteps,
    WindowOver,
    RequestsLost,
    ResponsesLost,
)

__all__ = ["FAULTS", "Fault", "Meddling", "ResultsDamaged", "WindowOver"]
