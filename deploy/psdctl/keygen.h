/* keygen.h - psdctl keygen: a key pair for a server, a worker or a person. */
#pragma once

int psd_ctl_keygen(int argc, char **argv);
