from datetime import timedelta

from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate

from extproc.dataplane.extensions import extension, previous_hosts, seconds


def test_an_extension_is_printed_with_its_type() -> None:
    packed = extension("some.name", PreviousHostsPredicate()).to_dict()
    kind = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    assert packed == {"name": "some.name", "typedConfig": {"@type": kind}}
    assert previous_hosts().to_dict() == {"@type": kind}


def test_a_duration_keeps_its_fraction() -> None:
    assert seconds(0.005) == timedelta(milliseconds=5)
