"""The texts in a kit: start scripts, systemd units, a site's own settings and policy, and what to do with them.

Nothing in them depends on the machine that made them.
"""

from datetime import datetime

_START = """#!/bin/sh
# {does}, until it is stopped (Ctrl-C, or: adamss-fl {role} stop FOLDER).
set -eu
folder="$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)"
if ! command -v adamss-fl >/dev/null 2>&1; then
    echo "start.sh: there is no command adamss-fl on the PATH; activate the environment that it is installed in" >&2
    exit 1
fi
exec adamss-fl {role} start "$folder"
"""

_UNIT = """# systemd service: the {role} of the consortium {consortium}.
# Edit the lines between the two EDIT marks, then, as root:
#   cp {file} /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now {file}
[Unit]
Description=AdaMSS-FL {what} of {consortium}
After=network-online.target
Wants=network-online.target

[Service]
# ==== EDIT: this kit's folder (twice), the folder that holds the command adamss-fl, and the user that owns the kit ====
WorkingDirectory=/EDIT/folder-of-this-kit
ReadWritePaths=/EDIT/folder-of-this-kit
Environment=PATH=/EDIT/folder-with-adamss-fl:/usr/local/bin:/usr/bin:/bin
User=EDIT-user
# ==== EDIT ends; a state folder outside the kit needs another ReadWritePaths line ====
ExecStart=/bin/sh start.sh
Restart=always
RestartSec=10
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""

SITE_SETTINGS = """# This hospital's own settings; nobody else sees them. Folders are relative to this file.
path: /EDIT/folder-of-patients # the folder of this hospital's patients; look at it with: adamss-fl check FOLDER
layout: hecktor2022 # how the patients lie there: a name that `adamss-fl plugins` lists under cohort_layout
state: state # private folder: policy, weights, caches, logs and the audit log
device: auto # auto, cpu or cuda
port: 9094 # between processes of this machine only; a second site on one machine needs another
"""

SITE_POLICY = """# What may be asked of this hospital; it wins over whatever a run says. Every key: docs/site-policy.md.
runs: ["*"] # names of tasks that are allowed; * stands for anything
min_patients: 5 # the least number of patients behind any figure that leaves
min_cell: 5 # the least number of patients in a cell of a table of patients, unless it is empty
"""

_SITE_README = """# {site}: kit for the consortium {consortium}

This folder is for the machine at {site} alone. Keep it private (folder 0700, files 0600); `site.key` goes to nobody.
{own_key}
Three things for the hospital's IT to do:

1. **Outbound port.** Let this machine open TCP connections to {host}, port {port} (TLS). No port is opened inwards.
2. **Data folder.** Write the folder of the patients into `site.yaml` (`path`), and check it with
   `adamss-fl check FOLDER`. The user that runs this needs to read it, never to write there. Images, paths and names of
   patients stay on this machine.
3. **Policy.** Read `state/policy.yaml` and change it to what the hospital allows. It wins over whatever a run asks for.

Then `./start.sh`, or edit `adamss-fl-site.service` and install it as a systemd service. `adamss-fl site status .` says
what runs.

`site.yaml`, `state/policy.yaml` and `adamss-fl-site.service` are the hospital's to edit; a kit with any other file
changed does not start. The kit is good until {expires} (UTC). For a new one ask the coordinator, and copy over these
its `kit.json`, `README.md`, `start.sh`, `site.pub` and, where there is one, `site.key`.
"""

_KEY_INCLUDED = """
`site.key` was made by the coordinator. A site that wants a key that nobody else ever had makes its own with
`adamss-fl provision --request {site} --out FOLDER`, and sends the request to the coordinator.
"""

_KEY_APART = """
This kit comes without a private key: put the `site.key` that this site has already (mode 0600) into this folder.
"""

_SERVER_README = """# Server of the consortium {consortium}

This folder is for the machine that the sites reach as {host}. Keep it private (folder 0700, files 0600).

1. Open TCP port {port} of this machine to the sites, and to nobody else.
2. `./start.sh`, or edit `adamss-fl-server.service` and install it as a systemd service.
3. `adamss-fl server status .` says which sites are connected.

`server.json` lists the sites that may take part, with their public keys. It is made anew whenever a site is added or
revoked: copy the whole folder over the old one then, and start the server again. A kit that was edited does not start.

The certificate is good until {expires} (UTC). To renew it: `adamss-fl provision CONSORTIUM --out DIR --renew
server`, with the consortium's file and folder.
"""


def start_script(role: str) -> str:
    """``start.sh`` for a ``site`` or the ``server``: runs the kit that it lies in, wherever that is."""
    does = "Takes part in the federation" if role == "site" else "Runs the federation's server"
    return _START.format(does=does, role=role)


def unit(role: str, what: str, consortium: str) -> str:
    """The systemd unit; what : for its description, such as ``site hospital-1``."""
    return _UNIT.format(role=role, what=what, consortium=consortium, file=unit_file(role))


def unit_file(role: str) -> str:
    """The unit's file name."""
    return f"adamss-fl-{role}.service"


def site_readme(site: str, consortium: str, host: str, port: int, expires: datetime, has_key: bool) -> str:
    """What hospital IT has to do. has_key : the kit holds the site's private key."""
    own_key = (_KEY_INCLUDED if has_key else _KEY_APART).format(site=site)
    return _SITE_README.format(
        site=site, consortium=consortium, host=host, port=port, own_key=own_key, expires=_minute(expires)
    )


def server_readme(consortium: str, host: str, port: int, expires: datetime) -> str:
    """What whoever runs the server has to do."""
    return _SERVER_README.format(consortium=consortium, host=host, port=port, expires=_minute(expires))


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
