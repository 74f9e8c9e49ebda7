// The requests of both sides by name, and what the protocol says about each as a whole: whether an answer is part of
// it, and how many descriptors come along. formats/vhost-user/messages.tsv has the same table.

/// What a front-end (the driver's side) asks.
public enum FrontendRequest: UInt32, CaseIterable, Sendable, BitwiseCopyable {
    case getFeatures = 1
    case setFeatures = 2
    case setOwner = 3
    case resetOwner = 4
    case setMemoryTable = 5
    case setLogBase = 6
    case setLogFD = 7
    case setVringNum = 8
    case setVringAddress = 9
    case setVringBase = 10
    case getVringBase = 11
    case setVringKick = 12
    case setVringCall = 13
    case setVringErr = 14
    case getProtocolFeatures = 15
    case setProtocolFeatures = 16
    case getQueueNum = 17
    case setVringEnable = 18
    case sendRARP = 19
    case netSetMTU = 20
    case setBackendRequestFD = 21
    case iotlbMessage = 22
    case setVringEndian = 23
    case getConfig = 24
    case setConfig = 25
    case createCryptoSession = 26
    case closeCryptoSession = 27
    case postcopyAdvise = 28
    case postcopyListen = 29
    case postcopyEnd = 30
    case getInflightFD = 31
    case setInflightFD = 32
    case gpuSetSocket = 33
    case resetDevice = 34
    case vringKick = 35
    case getMaxMemorySlots = 36
    case addMemoryRegion = 37
    case removeMemoryRegion = 38
    case setStatus = 39
    case getStatus = 40
    case getSharedObject = 41
    case setDeviceStateFD = 42
    case checkDeviceState = 43
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

/// What a back-end asks, over the socket of SET_BACKEND_REQ_FD.
public enum BackendRequest: UInt32, CaseIterable, Sendable, BitwiseCopyable {
    case iotlbMessage = 1
    case configChange = 2
    case vringHostNotifier = 3
    case vringCall = 4
    case vringErr = 5
    case sharedObjectAdd = 6
    case sharedObjectRemove = 7
    case sharedObjectLookup = 8
    case sharedMemoryMap = 9
    case sharedMemoryUnmap = 10
}
