"""Amazon MSK with IAM: the client's own mechanism, with credentials that botocore has found before it asks for them."""

import time
from contextlib import suppress
from threading import Thread
from typing import Any

from kafka.errors import KafkaConnectionError
from kafka.net.sasl import register_sasl_mechanism
from kafka.net.sasl.msk import AwsMskIamClient, SaslMechanismAwsMskIam

NAME = "AWS_MSK_IAM"
LOOK_SECONDS = 60
"""How often the credentials are looked at: botocore renews temporary ones a quarter of an hour before their end."""


class Mechanism(SaslMechanismAwsMskIam):
    """Signs with the credentials that `prepare` has found.

    The client's would look for them at each connection, and could wait for Amazon in its network's thread.
    """

    region = ""
    credentials: Any = None

    def _build_client(self) -> AwsMskIamClient:  # private
        try:
            found = self.credentials.get_frozen_credentials()
        except Exception as error:  # botocore's errors have no class in common
            raise KafkaConnectionError(f"botocore gets no credentials ({type(error).__name__})") from None
        return AwsMskIamClient(self.host, found.access_key, found.secret_key, self.region, found.token)


def prepare() -> str:
    """Find region and credentials, and keep the latter new. Returns what is missing, and what to do; "" if nothing."""
    try:
        from botocore.session import Session
    except ImportError:
        return "botocore is not installed: pip install --require-hashes -r service/requirements-msk.txt"
    try:
        session = Session()
        Mechanism.region, Mechanism.credentials = session.get_config_variable("region"), session.get_credentials()
    except Exception as error:  # botocore's errors have no class in common, and may quote a file
        return f"botocore finds no credentials ({type(error).__name__}): check the variables of AWS_..., and ~/.aws"
    if not Mechanism.region:
        return "there is no region: give it AWS_DEFAULT_REGION"
    if not Mechanism.credentials:
        return "there are no credentials: give it AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
    register_sasl_mechanism(NAME, Mechanism, overwrite=True)
    Thread(target=_renew, daemon=True).start()
    return ""


def _renew() -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        with suppress(Exception):  # the next connection says what
            Mechanism.credentials.get_frozen_credentials()
