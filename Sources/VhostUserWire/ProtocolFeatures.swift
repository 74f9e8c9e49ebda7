// The extensions of the protocol, which both sides agree on bit by bit. Neither side uses what the other lacks.

/// Bits of GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES (specification: "Protocol features"). A set may have bits
/// that this list does not.
@frozen public struct ProtocolFeatures: OptionSet, Sendable, BitwiseCopyable {
    /// The bits as they are on the wire.
    public let rawValue: UInt64
    /// Any bits, known or not.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// MQ: the back-end says how many queues it has (GET_QUEUE_NUM).
    public static let multiQueue = ProtocolFeatures(rawValue: 1 << 0)
    /// LOG_SHMFD: the dirty log is in a shared file (SET_LOG_BASE has a descriptor and an answer).
    public static let logSharedMemory = ProtocolFeatures(rawValue: 1 << 1)
    /// RARP: the back-end announces a migrated guest on its network (SEND_RARP).
    public static let rarp = ProtocolFeatures(rawValue: 1 << 2)
    /// REPLY_ACK: any message may ask for an answer (header's bit 3).
    public static let replyAck = ProtocolFeatures(rawValue: 1 << 3)
    /// MTU: NET_SET_MTU.
    public static let mtu = ProtocolFeatures(rawValue: 1 << 4)
    /// BACKEND_REQ: the back-end sends messages too, over a socket of their own (SET_BACKEND_REQ_FD).
    public static let backendRequests = ProtocolFeatures(rawValue: 1 << 5)
    /// CROSS_ENDIAN: the guest's byte order may differ from the host's (SET_VRING_ENDIAN).
    public static let crossEndian = ProtocolFeatures(rawValue: 1 << 6)
    /// CRYPTO_SESSION: CREATE_CRYPTO_SESSION and CLOSE_CRYPTO_SESSION.
    public static let cryptoSession = ProtocolFeatures(rawValue: 1 << 7)
    /// PAGEFAULT: postcopy migration, by userfaultfd.
    public static let pageFault = ProtocolFeatures(rawValue: 1 << 8)
    /// CONFIG: GET_CONFIG and SET_CONFIG.
    public static let config = ProtocolFeatures(rawValue: 1 << 9)
    /// BACKEND_SEND_FD: messages of the back-end may bring descriptors.
    public static let backendSendFD = ProtocolFeatures(rawValue: 1 << 10)
    /// HOST_NOTIFIER: VRING_HOST_NOTIFIER_MSG.
    public static let hostNotifier = ProtocolFeatures(rawValue: 1 << 11)
    /// INFLIGHT_SHMFD: requests in flight are recorded in a shared file (GET_INFLIGHT_FD, SET_INFLIGHT_FD).
    public static let inflightSharedMemory = ProtocolFeatures(rawValue: 1 << 12)
    /// RESET_DEVICE: the message of this name replaces RESET_OWNER.
    public static let resetDevice = ProtocolFeatures(rawValue: 1 << 13)
    /// INBAND_NOTIFICATIONS: kicks and calls may be messages instead of eventfds.
    public static let inbandNotifications = ProtocolFeatures(rawValue: 1 << 14)
    /// CONFIGURE_MEM_SLOTS: memory regions come and go one by one (ADD_MEM_REG, REM_MEM_REG).
    public static let configureMemorySlots = ProtocolFeatures(rawValue: 1 << 15)
    /// STATUS: the virtio device status goes to the back-end (SET_STATUS, GET_STATUS).
    public static let status = ProtocolFeatures(rawValue: 1 << 16)
    /// XEN_MMAP: memory regions carry Xen's mapping flags.
    public static let xenMmap = ProtocolFeatures(rawValue: 1 << 17)
    /// SHARED_OBJECT: buffers that devices share, by UUID.
    public static let sharedObject = ProtocolFeatures(rawValue: 1 << 18)
    /// DEVICE_STATE: the back-end's own state moves along in a migration (SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE).
    public static let deviceState = ProtocolFeatures(rawValue: 1 << 19)
    /// GET_VRING_BASE_INFLIGHT: GET_VRING_BASE need not wait for requests; those in flight stay in their record.
    public static let getVringBaseInflight = ProtocolFeatures(rawValue: 1 << 20)
    /// GPA_ADDRESSES: messages of the back-end may name memory by guest address.
    public static let guestPhysicalAddresses = ProtocolFeatures(rawValue: 1 << 21)
    /// SHMEM_MAP: the back-end maps files into the device's shared memory regions (SHMEM_MAP, SHMEM_UNMAP).
    public static let sharedMemoryMap = ProtocolFeatures(rawValue: 1 << 22)
}
