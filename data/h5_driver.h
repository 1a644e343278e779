/* How HDF5 writes its metadata.  Internal to h5; after hdf5.h.
 *
 * HDF5 does not survive a write that fails: files stay half open and the
 * program crashes when it ends.  So the driver never tells it.  It keeps the
 * first error for at_h5_commit to find, and drops what is written after it.  */
#ifndef AT_H5_DRIVER_H
#define AT_H5_DRIVER_H

#include <hdf5.h>

/* Makes `access` write to the open file fd, which stays the caller's; *error
 * gets the errno of the first failure.  Returns the driver's id, to be given
 * to H5FDunregister when the file is closed, or -1.                          */
hid_t at_h5_driver(hid_t access, int fd, int *error);

#endif
