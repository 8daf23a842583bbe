"""What ranks are told to do by test_team.py."""

from aiinfra.parallel.mesh import make_mesh, parse_mesh
from aiinfra.parallel.team import MeshTeam
from aiinfra.train.run import TrainingRun


def train(mesh, data, out, options, until, resume=False):
    """Take steps up to number `until`, save there, and export if it is the last."""
    run = TrainingRun(data, out, options, resume, team=MeshTeam(make_mesh(parse_mesh(mesh))))
    for record in run:
        if record.step == until:
            break
    if until == options.steps:
        run.export()
    return run.step
