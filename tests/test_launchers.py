"""The position of a process as torchrun, srun or mpirun describe it."""

import pytest

from afictl.errors import UserError
from afictl.launchers import launched_process, require_single_process

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
ALLOCATION = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[03-04,7],x"}
TASK = {
    **ALLOCATION,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, ("torchrun", 3, 4, 1, 2, 2, 1, "first", 29500)),
        ({**TORCHRUN, **TASK}, ("torchrun", 3, 4, 1, 2, 2, 1, "first", 29500)),  # torchrun inside srun
        (dict(list(TORCHRUN.items())[1:]), ("the launcher", 3, 4, 1, 2, 2, 1, "first", 29500)),  # set by hand
        (OPEN_MPI, ("mpirun", 1, 2, 1, 2, 1, 0, "first", 29500)),
    ],
)
def test_the_position_in_the_group(environ, expected):
    process = launched_process(environ)
    assert process is not None
    position = (process.rank, process.world_size, process.local_rank, process.local_world_size)
    place = (process.num_nodes, process.node_rank, process.address, process.port)
    assert (process.launcher, *position, *place) == expected


def test_a_task_of_srun_takes_the_numbers_of_its_step():
    process = launched_process(TASK)
    assert process is not None
    assert (process.launcher, process.rank, process.world_size) == ("srun", 2, 3)
    assert (process.local_rank, process.local_world_size, process.node_rank, process.num_nodes) == (0, 1, 1, 2)
    assert process.address == "gpu03"
    other_step = launched_process({**TASK, "SLURM_STEP_ID": "1"})
    assert other_step is not None
    assert 1024 < process.port < 32768
    assert process.port != other_step.port


@pytest.mark.parametrize(
    "environ",
    [
        {},
        ALLOCATION,  # the shell of salloc
        {**ALLOCATION, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},  # a script of sbatch
        {**TASK, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"},  # salloc with an interactive step
        {**TASK, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"LOCAL_RANK": "0"},
    ],
)
def test_a_process_that_was_started_alone(environ):
    assert launched_process(environ) is None
    assert require_single_process(environ)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RANK": "4"}, "RANK=4 and WORLD_SIZE=4"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK is not set"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"),
        ({"RANK": None}, "RANK is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT"),
    ],
)
def test_incomplete_variables_are_refused(changes, reason):
    environ = {name: value for name, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=reason):
        launched_process(environ)


def test_a_command_of_one_process_is_refused_once():
    with pytest.raises(UserError, match="torchrun started 4"):
        require_single_process({**TORCHRUN, "RANK": "0"})
    assert not require_single_process(TORCHRUN)
