"""The texts in a kit: start scripts, systemd units, settings and what to do with them."""

SITE_START = """#!/bin/sh
# Takes part in the federation until it is stopped (Ctrl-C, or: adamss-fl site stop <this folder>).
exec adamss-fl site start "$(cd "$(dirname "$0")" && pwd)"
"""

SERVER_START = """#!/bin/sh
# Runs the federation's server until it is stopped (Ctrl-C, or: adamss-fl server stop <this folder>).
exec adamss-fl server start "$(cd "$(dirname "$0")" && pwd)"
"""

SITE_YAML = """# This hospital's own settings; nobody else sees them. Folders are relative to this file.
path: /path/to/patients    # EDIT: the folder of this hospital's patients (see `adamss-fl check`)
layout: hecktor2022        # how the patients lie there
state: state               # private folder: policy, weights, caches, logs, audit log
device: auto               # auto, cpu or cuda
port: 9094                 # on this machine only; a second site on one machine needs another
"""

POLICY = """# What may be asked of this hospital; it wins over whatever a run says. Every key: configs/policy.yaml.
runs: ["*"]       # names of tasks that are allowed, with * for anything
min_patients: 5   # the least number of patients behind any figure that leaves
"""

UNIT = """[Unit]
Description=AdaMSS-FL {what} of {consortium}
After=network-online.target
Wants=network-online.target

[Service]
# EDIT the three lines below: the folder of this kit, the adamss-fl command, and the user that may read the patients.
WorkingDirectory=/srv/adamss-fl/kit
ExecStart=/srv/adamss-fl/.venv/bin/adamss-fl {role} start /srv/adamss-fl/kit
User=adamss-fl
ReadWritePaths=/srv/adamss-fl/kit
Restart=always
RestartSec=10
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""

SITE_README = """# {site}: kit for the consortium {consortium}

Three things to do at the hospital:

1. **Outbound port.** Let this machine open TCP connections to {host}, port {port}. Nothing has to come in.
2. **Data folder.** Write the folder of the patients into `site.yaml` (`path`), and look at it with
   `adamss-fl check FOLDER`. Patients, paths and identifiers stay on this machine.
3. **Policy.** Read `state/policy.yaml` and change it to what the hospital allows. It wins over whatever a run asks for.

Then `./start.sh`, or edit `adamss-fl-site.service` and install it as a systemd service. `adamss-fl site status .` shows
what runs; `adamss-fl site pause state` stops all answers at once, `adamss-fl site audit state` lists and verifies
every message in and out.
{own_key}
The kit is good until {expires}. It works only at this site: it holds, or was made for, this site's own key.
"""

OWN_KEY = """
This site made its own key: put `site.key` from `adamss-fl provision --request` into this folder (mode 0600).
"""

SERVER_README = """# Server kit of the consortium {consortium}

Put this folder on the machine that the sites reach as {host}, open TCP port {port} to them (and to nobody else: whoever
reaches it can also ask Flower for runs), and run `./start.sh`, or edit `adamss-fl-server.service` and install it.

`adamss-fl server status .` shows which sites are connected, `adamss-fl submit CONFIG --federation .` starts a run.
The certificate is good until {expires}; `adamss-fl provision CONSORTIUM --out DIR --renew server` makes a new one.
"""
