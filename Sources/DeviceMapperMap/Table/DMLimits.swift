// The numbers that the kernel and libdevmapper lay down for tables, named once. formats/dm-table/layout.tsv is the
// truth; a test holds these against it.

/// What device-mapper and libdevmapper take at most.
public enum DMLimits {
    /// Tables count in sectors of 512 bytes, whatever the block size of the devices below is.
    public static let sectorSize: UInt64 = 512
    /// Targets in one table (DM_MAX_TARGETS in drivers/md/dm-ioctl.c, since Linux 6.8; earlier ones name no limit).
    public static let maxTargets = 1_048_576
    /// libdevmapper refuses to allocate more for one ioctl ("Huge memory allocation ... rejected").
    public static let maxIoctlBytes = 50_000_000
    /// struct dm_ioctl, which the table follows in the buffer of the ioctl.
    public static let headerBytes = 312
    /// struct dm_target_spec, once a target.
    public static let targetSpecBytes = 40
    /// What libdevmapper adds to the parameters of each target: the terminating zero and room to align the next.
    public static let targetSlackBytes = 9
    /// A device's name, without the terminating zero (DM_NAME_LEN is 128).
    public static let maxNameBytes = 127
    /// A device's UUID, without the terminating zero (DM_UUID_LEN is 129).
    public static let maxUUIDBytes = 128
    /// The kernel's loff_t: a device cannot be larger.
    public static let maxDeviceBytes = UInt64(Int64.max)

    /// Bytes of the ioctl that one target with these parameters takes.
    public static func ioctlBytes(parameters count: Int) -> Int { targetSpecBytes + targetSlackBytes + count }
}
