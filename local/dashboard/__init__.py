"""The dashboard of template.yaml without AWS: its metrics, its alarms, and a picture of it from a load run."""
