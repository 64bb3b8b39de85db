"""The contracts as tests: subclass a suite, give it your plug-in, and see whether it keeps its word.

::

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def broker(self):
            ...
"""

from cloudq.testing.contracts.backend import BackendContract
from cloudq.testing.contracts.broker import BrokerContract
from cloudq.testing.contracts.pool import PoolContract
from cloudq.testing.contracts.pool_steering import SteerableContract
from cloudq.testing.contracts.serializer import SerializerContract

__all__ = ["BackendContract", "BrokerContract", "PoolContract", "SerializerContract", "SteerableContract"]
