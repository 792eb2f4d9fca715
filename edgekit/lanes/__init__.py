"""The places where a bundle runs in a comparison: this machine, emulated boards, devices, and files they wrote."""
