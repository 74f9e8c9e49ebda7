// The constants and codes are held against formats/vhost-user, both ways: none differs, none of the table's is
// missing.
import Testing
import VhostUserWire

struct LayoutTests {
    static let constants: [(String, Int)] = [
        ("header.request", MessageHeader.Field.request), ("header.flags", MessageHeader.Field.flags),
        ("header.size", MessageHeader.Field.size),
        ("flag.version", Int(MessageHeader.version)), ("flag.version_mask", Int(MessageHeader.Flag.versionMask)),
        ("flag.reply", Int(MessageHeader.Flag.reply)), ("flag.need_reply", Int(MessageHeader.Flag.needReply)),
        ("vring_state.index", VringState.Field.index), ("vring_state.num", VringState.Field.num),
        ("vring_addr.index", VringAddress.Field.index), ("vring_addr.flags", VringAddress.Field.flags),
        ("vring_addr.descriptor", VringAddress.Field.descriptors), ("vring_addr.used", VringAddress.Field.used),
        ("vring_addr.available", VringAddress.Field.avail), ("vring_addr.log", VringAddress.Field.log),
        ("vring_addr.flag.log", Int(VringAddress.logFlag)),
        ("vring_event.index_mask", Int(VringEvent.indexMask)), ("vring_event.no_fd", Int(VringEvent.noDescriptorFlag)),
        ("region.guest_address", MemoryRegion.Field.guestAddress), ("region.size", MemoryRegion.Field.size),
        ("region.user_address", MemoryRegion.Field.userAddress), ("region.mmap_offset", MemoryRegion.Field.mmapOffset),
        ("memory.num_regions", MemoryTable.Field.count), ("memory.padding", MemoryTable.Field.padding),
        ("memory.regions", MemoryTable.Field.regions),
        ("mem_reg.padding", SingleRegion.Field.padding), ("mem_reg.region", SingleRegion.Field.region),
        ("config.offset", ConfigAccess.Field.offset), ("config.size", ConfigAccess.Field.size),
        ("config.flags", ConfigAccess.Field.flags), ("config.payload", ConfigAccess.Field.data),
        ("inflight.mmap_size", InflightDescription.Field.mmapSize),
        ("inflight.mmap_offset", InflightDescription.Field.mmapOffset),
        ("inflight.num_queues", InflightDescription.Field.queueCount),
        ("inflight.queue_size", InflightDescription.Field.queueSize),
        ("log.mmap_size", LogDescription.Field.mmapSize), ("log.mmap_offset", LogDescription.Field.mmapOffset),
        ("limit.payload", VhostUserLimits.maxPayloadBytes), ("limit.fds", VhostUserLimits.maxDescriptors),
        ("limit.regions", VhostUserLimits.maxTableRegions), ("limit.config", VhostUserLimits.maxConfigBytes),
        ("limit.log_page", VhostUserLimits.logPageBytes),
    ]
    static let widths: [(String, Int)] = [
        ("header", VhostUserLimits.headerBytes), ("u64", WireNumber.bytes), ("vring_state", VringState.bytes),
        ("vring_addr", VringAddress.bytes), ("region", MemoryRegion.bytes), ("mem_reg", SingleRegion.bytes),
        ("inflight", InflightDescription.bytes), ("inflight.packed", InflightDescription.packedBytes),
        ("log", LogDescription.bytes),
    ]
    static let features: [(String, ProtocolFeatures)] = [
        ("MQ", .multiQueue), ("LOG_SHMFD", .logSharedMemory), ("RARP", .rarp), ("REPLY_ACK", .replyAck), ("MTU", .mtu),
        ("BACKEND_REQ", .backendRequests), ("CROSS_ENDIAN", .crossEndian), ("CRYPTO_SESSION", .cryptoSession),
        ("PAGEFAULT", .pageFault), ("CONFIG", .config), ("BACKEND_SEND_FD", .backendSendFD),
        ("HOST_NOTIFIER", .hostNotifier), ("INFLIGHT_SHMFD", .inflightSharedMemory), ("RESET_DEVICE", .resetDevice),
        ("INBAND_NOTIFICATIONS", .inbandNotifications), ("CONFIGURE_MEM_SLOTS", .configureMemorySlots),
        ("STATUS", .status), ("XEN_MMAP", .xenMmap), ("SHARED_OBJECT", .sharedObject), ("DEVICE_STATE", .deviceState),
        ("GET_VRING_BASE_INFLIGHT", .getVringBaseInflight), ("GPA_ADDRESSES", .guestPhysicalAddresses),
        ("SHMEM_MAP", .sharedMemoryMap),
    ]

    @Test(arguments: constants) func everyConstantIsTheTables(name: String, value: Int) throws {
        #expect(try #require(FormatTable.layout[name]).offset == UInt64(value))
    }
    @Test(arguments: widths) func everySizeIsTheTables(name: String, bytes: Int) throws {
        #expect(try #require(FormatTable.layout[name]).width == bytes)
    }
    @Test(arguments: features) func everyFeatureBitIsTheTables(name: String, feature: ProtocolFeatures) throws {
        #expect(feature.rawValue == 1 << (try #require(FormatTable.layout["protocol.\(name)"]).offset))
    }
    @Test func everyRowOfTheTableIsHeld() {
        let held = Set(Self.constants.map(\.0) + Self.widths.map(\.0) + Self.features.map { "protocol.\($0.0)" })
        #expect(Set(FormatTable.layout.keys).subtracting(held) == [])
    }

    /// Side, code, whether it is answered, descriptors: the two lists are the same.
    @Test func everyMessageIsTheTables() {
        let front = FrontendRequest.allCases.map { request in
            let fds = request.descriptors
            let count = fds.count == 1 ? "\(fds.lowerBound)" : "\(fds.lowerBound)-\(fds.upperBound)"
            return "front-end \(request.rawValue) \(request.hasReply) \(count)"
        }
        let back = BackendRequest.allCases.map { "back-end \($0.rawValue)" }
        let table = FormatTable.rows("messages.tsv").map { row in
            row[0] == "back-end" ? "back-end \(row[2])" : "front-end \(row[2]) \(row[4] != "-") \(row[5])"
        }
        #expect(front + back == table)
    }
    @Test(arguments: [
        (FrontendRequest.setMemoryTable, "SET_MEM_TABLE"), (.getVringBase, "GET_VRING_BASE"),
        (.setVringEnable, "SET_VRING_ENABLE"), (.setBackendRequestFD, "SET_BACKEND_REQ_FD"),
        (.getConfig, "GET_CONFIG"), (.setInflightFD, "SET_INFLIGHT_FD"), (.addMemoryRegion, "ADD_MEM_REG"),
        (.setStatus, "SET_STATUS"), (.resetDevice, "RESET_DEVICE"), (.setLogFD, "SET_LOG_FD"),
    ])
    func codesHaveTheTablesNames(request: FrontendRequest, name: String) throws {
        let rows = FormatTable.rows("messages.tsv").filter { $0[0] == "front-end" }
        #expect(rows.first { $0[1] == name }?[2] == "\(request.rawValue)")
    }
}
