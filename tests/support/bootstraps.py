"""The commented Envoy configuration in the repository, and the settings it documents."""

from pathlib import Path

from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings

STANDALONE = Path(__file__).resolve().parents[2] / "envoy" / "standalone" / "envoy.yaml"
STANDALONE_SETTINGS = Settings(supervisor=SupervisorSettings(run_dir="/run/extproc", routers=2))
