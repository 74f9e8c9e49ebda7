// The requests of both sides by name, and what the protocol says about each as a whole: whether an answer is part of
// it, and how many descriptors come along. formats/vhost-user/messages.tsv has the same table.

/// What a front-end (the driver's side) asks; the raw value is the code in the header (specification: "Front-end
/// message types").
public enum FrontendRequest: UInt32, CaseIterable, Sendable, BitwiseCopyable {
    /// Which virtio features the back-end has.
    case getFeatures = 1
    /// The virtio features that are used from now on.
    case setFeatures = 2
    /// This connection owns the back-end from now on.
    case setOwner = 3
    /// The front-end no longer owns the back-end; obsolete, RESET_DEVICE takes its place.
    case resetOwner = 4
    /// All memory regions at once, a descriptor each.
    case setMemoryTable = 5
    /// Where the log of dirty pages is.
    case setLogBase = 6
    /// An eventfd that is signalled when the log was written to.
    case setLogFD = 7
    /// How many entries a ring has.
    case setVringNum = 8
    /// Where the parts of a ring are.
    case setVringAddress = 9
    /// Where in a ring the back-end begins.
    case setVringBase = 10
    /// Stops a ring; the answer is where it goes on.
    case getVringBase = 11
    /// The eventfd by which the driver announces requests. A kick on it starts the ring.
    case setVringKick = 12
    /// The eventfd by which the back-end announces answers.
    case setVringCall = 13
    /// The eventfd by which the back-end announces that a ring is broken.
    case setVringErr = 14
    /// Which extensions of the protocol the back-end has.
    case getProtocolFeatures = 15
    /// The extensions of the protocol that are used from now on.
    case setProtocolFeatures = 16
    /// How many queues the back-end has at most.
    case getQueueNum = 17
    /// Lets a ring's requests be processed, or not.
    case setVringEnable = 18
    /// Network devices: announce a migrated guest, by its MAC address.
    case sendRARP = 19
    /// Network devices: the guest's MTU.
    case netSetMTU = 20
    /// The socket over which the back-end sends its own messages.
    case setBackendRequestFD = 21
    /// IOMMU: a translation to add or to drop, or the answer to a miss.
    case iotlbMessage = 22
    /// A ring's byte order.
    case setVringEndian = 23
    /// Bytes of the configuration space.
    case getConfig = 24
    /// Changes bytes of the configuration space.
    case setConfig = 25
    /// Crypto devices: begins a session.
    case createCryptoSession = 26
    /// Crypto devices: ends a session.
    case closeCryptoSession = 27
    /// Postcopy migration begins; the answer brings a userfaultfd.
    case postcopyAdvise = 28
    /// Postcopy migration: memory is registered with the userfaultfd from now on.
    case postcopyListen = 29
    /// Postcopy migration is over.
    case postcopyEnd = 30
    /// A new record of requests in flight, for so many queues; the answer brings its file.
    case getInflightFD = 31
    /// The record of requests in flight that a killed back-end left, or that GET_INFLIGHT_FD made.
    case setInflightFD = 32
    /// Graphics: the socket of vhost-user-gpu.
    case gpuSetSocket = 33
    /// Back to the state after start: no ring runs, all are disabled.
    case resetDevice = 34
    /// A kick as a message (INBAND_NOTIFICATIONS).
    case vringKick = 35
    /// How many memory regions the back-end takes.
    case getMaxMemorySlots = 36
    /// One more memory region, with its descriptor.
    case addMemoryRegion = 37
    /// A memory region that the guest has no more.
    case removeMemoryRegion = 38
    /// The virtio device status that the guest has set; 0 resets the device.
    case setStatus = 39
    /// The virtio device status.
    case getStatus = 40
    /// The descriptor of a shared object, by UUID.
    case getSharedObject = 41
    /// The pipe by which the back-end's own state is saved or loaded in a migration.
    case setDeviceStateFD = 42
    /// Whether the back-end's state was saved or loaded as a whole.
    case checkDeviceState = 43
    /// Which shared memory regions the device has.
    case getSharedMemoryConfig = 44

    /// True when an answer is part of the request; all others are answered only when REPLY_ACK was agreed on and the
    /// header asks for it. SET_LOG_BASE is answered when LOG_SHMFD was agreed on.
    public var hasReply: Bool {
        switch self {
        case .getFeatures, .getProtocolFeatures, .getQueueNum, .getVringBase, .setLogBase, .getConfig, .iotlbMessage,
            .createCryptoSession, .postcopyAdvise, .postcopyEnd, .getInflightFD, .getMaxMemorySlots, .getStatus,
            .getSharedObject, .setDeviceStateFD, .checkDeviceState, .getSharedMemoryConfig:
            true
        default: false
        }
    }

    /// How many descriptors may come with it. What comes with a message that has none is closed.
    public var descriptors: ClosedRange<Int> {
        switch self {
        // One for each region.
        case .setMemoryTable: 0...VhostUserLimits.maxDescriptors
        // None: the driver polls, or there is no eventfd.
        case .setVringKick, .setVringCall, .setVringErr, .setLogBase, .setLogFD: 0...1
        // Front-ends of old send one, to be closed.
        case .removeMemoryRegion: 0...1
        case .setBackendRequestFD, .setInflightFD, .addMemoryRegion, .gpuSetSocket, .setDeviceStateFD: 1...1
        default: 0...0
        }
    }
}

/// What a back-end asks, over the socket of SET_BACKEND_REQ_FD (specification: "Back-end message types"). The raw value
/// is the code in the header.
public enum BackendRequest: UInt32, CaseIterable, Sendable, BitwiseCopyable {
    /// IOMMU: a translation that the back-end lacks, or an access that was refused.
    case iotlbMessage = 1
    /// The configuration space has changed; the front-end reads it again.
    case configChange = 2
    /// A ring's doorbell page in a file, to be mapped into the guest.
    case vringHostNotifier = 3
    /// A call as a message (INBAND_NOTIFICATIONS).
    case vringCall = 4
    /// A ring is broken, as a message (INBAND_NOTIFICATIONS).
    case vringErr = 5
    /// A shared object that the back-end exports, by UUID.
    case sharedObjectAdd = 6
    /// A shared object that is no longer exported.
    case sharedObjectRemove = 7
    /// The descriptor of another device's shared object.
    case sharedObjectLookup = 8
    /// Maps a file into a shared memory region of the device.
    case sharedMemoryMap = 9
    /// Takes such a mapping back.
    case sharedMemoryUnmap = 10
}
