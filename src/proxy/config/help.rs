//! The text of `--help`.

/// The text of `--help`. The manual has the details; `tests/man.rs` compares both with the parser.
pub const HELP: &str = "\
Gets DHCP leases for Podman's containers; a drop-in replacement for `netavark dhcp-proxy`.

Usage: smol-dhcp-proxy [OPTIONS]           serve as the daemon
       smol-dhcp-proxy COMMAND [...]       one of these; COMMAND --help has its options

Commands:
  status                          show leases, the daemon and counters; wakes nothing
  doctor                          look for faults of units, files and the kernel
  check                           look for DHCP servers on an interface, without taking a lease
  renew                           renew leases now
  release                         give leases back, and take their addresses off
  setup, teardown                 make Podman's calls by hand

Service:
  -d, --dir DIR                   directory of the socket and the state [default: /run/podman]
  -u, --uds PATH                  socket, or its directory [default: DIR/nv-proxy.sock]
  -a, --activity-timeout SECONDS  idle time after which it exits; 0 = never [default: 300]
      --sleep WHEN                exit while there are leases: auto, never [default: auto]
      --on-stop WHAT              leases at SIGTERM and SIGINT: keep, release [default: keep]

DHCP:
  -t, --timeout SECONDS           time for one acquisition; auto; 0 = no limit [default: auto]
      --arp-probe N               ARP probes before use; 0 = none [default: one with the REQUEST]
      --broadcast                 ask servers for broadcast replies
      --client-id WHAT            option 61: container, mac, duid, none [default: container]
      --rapid-commit WHETHER      two messages in place of four: yes, no [default: yes]
      --server ADDRESS            take leases from this server only; repeatable
      --deny-server ADDRESS       take no lease from this server; repeatable
      --fqdn                      send the whole name (option 81) where the domain is known
      --mtu WHAT                  MTU of option 26: lower, server, ignore [default: lower]

Events:
      --on-change PROGRAM         run a program when a lease changes; needs systemd

Security:
      --sandbox HOW               Landlock and seccomp: auto, strict, off [default: auto]

Other:
  -h, --help                      print this help
  -V, --version                   print the version

Environment:
  NETAVARK_PROXY_RUN_DIR_ENV      overrides --dir
  SMOL_DHCP_PROXY_SANDBOX         overrides the default of --sandbox
  RUST_LOG                        log level: error, warn, info, debug, trace [default: info]

SECONDS may have a fraction, as in 2.5. Started by a systemd socket unit, it serves that socket;
otherwise it makes the socket itself.

Signals: SIGTERM and SIGINT stop it; a second one ends the wait for calls in flight.
Exit status: 0 after idleness or a signal, 1 if it cannot serve, 2 for a wrong command line or
configuration.

Manual: man 8 smol-dhcp-proxy
";
