"""``python -m rz_operator``: the operator's process."""

from rz_operator.service.main import main

main()
