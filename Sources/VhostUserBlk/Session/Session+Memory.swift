// The guest's memory as a front-end sends it, all at once or region by region, also while requests are in flight. Old
// memory is unmapped only when no request can access it any more. The dirty log and the record of requests in flight
// are shared memory, too.
import DiskTypes
import ImageChain
import LinuxIO
import QCOW2
import SystemPackage
import VhostUserWire
import Virtqueue

extension Session {
    func setMemory(_ table: MemoryTable, _ descriptors: [SharedFD]) throws(Refusal) {
        guard table.regions.count == descriptors.count else {
            throw Refusal("\(descriptors.count) descriptors came with \(table.regions.count) memory regions")
        }
        var next: [GuestMapping] = []
        for (region, fd) in zip(table.regions, descriptors) { next.append(try GuestMapping(region, fd)) }
        try replaceMemory(next)
    }

    func addMemory(_ region: MemoryRegion, _ descriptors: [SharedFD]) throws(Refusal) {
        guard let fd = descriptors.first else { throw Refusal("a memory region came without its descriptor") }
        guard mappings.count < Self.memorySlots else { throw Refusal("there are \(Self.memorySlots) regions already") }
        try replaceMemory(mappings + [try GuestMapping(region, fd)])
    }

    func removeMemory(_ region: MemoryRegion) throws(Refusal) {
        let rest = mappings.filter { mapping in
            let known = mapping.region
            return known.guestAddress != region.guestAddress || known.size != region.size
                || known.userAddress != region.userAddress
        }
        guard rest.count < mappings.count else { throw Refusal("there is no such memory region to remove") }
        try replaceMemory(rest)
    }

    /// Goes over to other memory: rings in use must be in it, and requests in flight are waited for.
    private func replaceMemory(_ next: [GuestMapping]) throws(Refusal) {
        do throws(VirtqueueError) { try memory.replace(next.map(\.guestRegion)) } catch { throw Refusal("\(error)") }
        let places: [QueueID: RingAddresses]
        do throws(Refusal) { places = try ringPlaces() } catch {
            // The old regions again, which were valid. The new table was not sent to workers, but the rings use the old
            // one.
            do throws(VirtqueueError) { try memory.replace(mappings.map(\.guestRegion)) } catch {}
            throw error
        }
        spread { .memory(export: export.number, memory.snapshot, next.compactMap(\.file), places, $0) }
        memory.releaseRetired()
        mappings = next
        // A ring may have been described before all of its memory came.
        for index in rings.indices { do throws(Refusal) { try startIfComplete(index) } catch { continue } }
    }

    /// Where the rings in use are in the current memory.
    private func ringPlaces() throws(Refusal) -> [QueueID: RingAddresses] {
        var places: [QueueID: RingAddresses] = [:]
        for (index, ring) in rings.enumerated() where ring.isStarted {
            guard let size = ring.size, let address = ring.address else { continue }
            do throws(VirtqueueError) {
                places[id(index)] = try RingAddresses(
                    address.user, size: size, isPacked: RingFeatures(negotiated: features).contains(.packed),
                    in: memory.snapshot)
            } catch { throw Refusal("ring \(index): \(error)") }
        }
        return places
    }

    // MARK: dirty log

    /// Bytes of a log, at most: enough for a guest of 2 PiB.
    private static let largestLog: UInt64 = 1 << 36

    func setLog(_ message: FrontendMessage) throws(Refusal) -> Reply {
        guard protocolFeatures.contains(.logSharedMemory) else { throw Refusal("a log needs LOG_SHMFD") }
        let description = try decode(LogDescription.self, message)
        guard let fd = message.descriptors.first else { throw Refusal("the log came without its descriptor") }
        let old = logArea
        logArea = try SharedArea(
            fd: fd.raw, offset: description.mmapOffset, size: description.mmapSize, most: Self.largestLog)
        // The old area stays mapped until every ring has the new one.
        withExtendedLifetime(old) { updateLogs() }
        return number(0, message)
    }

    /// The log that rings use now.
    var dirtyLog: DirtyLog {
        guard features & VirtioBlk.Feature.logAll != 0, let logArea else { return .off }
        return unsafe DirtyLog(bits: logArea.base, bytes: logArea.count)
    }

    func updateLogs() {
        for index in rings.indices where rings[index].isStarted { updateLog(index) }
    }

    func updateLog(_ index: Int) {
        guard let address = rings[index].address else { return }
        let dirty = dirtyLog
        _ = ask(index) {
            .log(id(index), dirty, ring: address.isLogged, usedGuestAddress: address.log, $0)
        }
    }

    // MARK: requests in flight

    func makeInflight(_ message: FrontendMessage) throws(Refusal) -> Reply {
        let wanted = try decode(InflightDescription.self, message)
        let layout = try InflightArea.Layout(
            queues: Int(wanted.queueCount), size: Int(wanted.queueSize),
            isPacked: RingFeatures(negotiated: features).contains(.packed), most: export.queueCount,
            hasJournal: export.hasJournal)
        let file: OwnedFD
        do throws(Errno) { file = try SharedMemory("qblk-inflight", count: layout.bytes).duplicateFile() } catch {
            throw Refusal("no memory for the record of requests in flight: \(error)")
        }
        let description = InflightDescription(
            mmapSize: UInt64(layout.bytes), mmapOffset: 0, queueCount: wanted.queueCount, queueSize: wanted.queueSize)
        return Reply(description.reply(to: message.header), SharedFD(taking: file.release()))
    }

    func setInflight(_ description: InflightDescription, _ descriptors: [SharedFD]) throws(Refusal) {
        guard let fd = descriptors.first else { throw Refusal("the record came without its descriptor") }
        guard !rings.contains(where: \.isStarted) else { throw Refusal("rings run with the record they have") }
        let layout = try InflightArea.Layout(
            queues: Int(description.queueCount), size: Int(description.queueSize),
            isPacked: RingFeatures(negotiated: features).contains(.packed), most: export.queueCount,
            hasJournal: export.hasJournal)
        // The record's journal may be missing, or of another size than this version's.
        guard description.mmapSize >= UInt64(layout.queueBytes), description.mmapOffset & 63 == 0 else {
            throw Refusal("the record of requests in flight is too small, or begins inside a cache line")
        }
        let area = InflightArea(
            layout,
            try SharedArea(
                fd: fd.raw, offset: description.mmapOffset, size: description.mmapSize, most: 1 << 32))
        let chain = try image()
        try claim(area, chain)
        if let journal = area.journal, let writer = chain.writer { try replay(journal, writer) }
        inflight = area
    }

    /// The record of a killed server is about its image, and about no other. An overlay of that image is another: it
    /// would show the image without the changes that only the record has.
    private func claim(_ area: InflightArea, _ chain: ImageChain) throws(Refusal) {
        guard let owner = area.owner, let image = chain.files.first?.identity else { return }
        if let old = owner.file, old != image {
            throw Refusal(
                "the VM's disk is another file (inode \(old.inode) on device \(old.device)), whose server was killed: "
                    + "give that file its name back, or restart the VM", endsConnection: true)
        }
        owner.claim(image)
    }

    /// The image, which is opened first if it was released.
    func image() throws(Refusal) -> ImageChain {
        let taken: (chain: ImageChain, isNew: Bool)
        do throws(ImageError) { taken = try export.takeImage() } catch {
            // Rings that do not start would leave the guest waiting for ever. The connection ends instead, and a
            // front-end that connects again asks again.
            throw Refusal("the image cannot be opened: \(error)", endsConnection: true)
        }
        guard taken.isNew else { return taken.chain }
        log.info("\(export.name): the image is here now")
        if let writer = taken.chain.writer, let journal = inflight?.journal { try replay(journal, writer) }
        return taken.chain
    }

    /// Replays the changes that the disk lacks because the server before this one was killed.
    private func replay(_ journal: MappingJournal, _ writer: ImageWriter) throws(Refusal) {
        let name = export.name
        do throws(ImageError) {
            switch try writer.use(journal) {
            case .fresh: break
            case .changes(let count): log.notice("\(name): took over \(count) changes of a killed server")
            case .afterFailure:
                log.error("\(name): a sync has failed before, in this server or one that was killed: all flushes fail")
            case .refused(let why):
                log.error("\(name): changes of a killed server cannot be taken over (\(why)): the next flush fails")
            }
        } catch {
            throw Refusal("changes of a killed server cannot be taken over now: \(error)")
        }
    }
}
