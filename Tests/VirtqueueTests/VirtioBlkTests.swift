// Statuses are QEMU's own (block/export/virtio-blk-handler.c), case by case.
import DiskTypes
import Glibc
import Testing
import Virtqueue
import VirtqueueMock

struct VirtioBlkTests {
    static let megabyte: UInt64 = 1 << 20

    private func disk(readOnly: Bool = false, block: UInt32 = 512) throws -> VirtioBlkDisk {
        try #require(
            VirtioBlkDisk(capacityBytes: Self.megabyte, blockSize: block, isReadOnly: readOnly, serial: "serial-1"))
    }

    /// The status that a request is answered with at the door; nil when it is handed on.
    private func answer(
        type: UInt32, sector: UInt64 = 0, data: Int = 512, payload: [UInt8]? = nil, disk: VirtioBlkDisk
    ) throws -> UInt8? {
        let harness = try QueueHarness(.split)
        let request = try harness.request(type: type, sector: sector, data: payload?.count ?? data)
        if let payload { harness.memory.write(payload, at: request.data) }
        harness.driver.publish(request.buffers)
        return harness.serve(disk) == nil ? harness.status(request.status) : nil
    }

    private func segment(_ sector: UInt64, _ count: UInt32, _ flags: UInt32) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: sector >> (8 * $0)) }
            + (0..<4).map { UInt8(truncatingIfNeeded: count >> (8 * $0)) }
            + (0..<4).map { UInt8(truncatingIfNeeded: flags >> (8 * $0)) }
    }

    @Test(arguments: Kind.both) func aReadIsHandedOnWithItsBuffers(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let parts = try harness.request(type: 0, sector: 3, data: 1024)
        harness.driver.publish(parts.buffers)
        let request = try #require(harness.serve(try disk()))
        #expect(request.operation == .read)
        #expect(request.guest == GuestOffset(1536))
        #expect(request.length == 1024)
        #expect(request.iovecCount == 1)
        #expect(request.iovecs?.pointee.iov_base == harness.memory.host(parts.data))
        let chain = harness.queue.chain(Int(request.slot))
        let written = VirtioBlk.finish(chain, .ok)
        #expect(written == 1025)
        harness.push(chain, written: written)
        #expect(harness.status(parts.status) == 0)
    }

    @Test func aWriteIsHandedOnWithItsBuffersAndAnswersOneByte() throws {
        let harness = try QueueHarness(.split)
        let parts = try harness.request(type: 1, sector: 2, data: 512)
        harness.driver.publish(parts.buffers)
        let request = try #require(harness.serve(try disk()))
        #expect(request.operation == .write)
        #expect(request.iovecs?.pointee.iov_base == harness.memory.host(parts.data))
        #expect(VirtioBlk.finish(harness.queue.chain(Int(request.slot)), .ioError) == 1)
        #expect(harness.status(parts.status) == 1)
    }

    @Test(arguments: 0..<17) func headerDataAndStatusMayShareBuffersInAnyWay(_ cut: Int) throws {
        // A write in one readable piece cut at `cut`, and a read whose status ends its data.
        let harness = try QueueHarness(.split)
        let base = try harness.buffer(16 + 512)
        harness.writeHeader(at: base, type: 1, sector: 7)
        let status = try harness.buffer(1)
        harness.driver.publish(
            [
                MockBuffer(base, UInt32(cut), isWritable: false),
                MockBuffer(base + UInt64(cut), UInt32(528 - cut), isWritable: false),
                MockBuffer(status, 1, isWritable: true),
            ])
        let write = try #require(harness.serve(try disk()))
        #expect(write.guest == GuestOffset(7 * 512))
        #expect(write.length == 512)
        let vectors = (0..<Int(write.iovecCount)).compactMap { write.iovecs?[$0] }
        #expect(vectors.map(\.iov_len).reduce(0, +) == 512)
        #expect(vectors.first?.iov_base == harness.memory.host(base + 16))
        harness.push(harness.queue.chain(Int(write.slot)), written: 1)

        let reader = try harness.request(type: 0)
        let room = try harness.buffer(513)
        harness.driver.publish([reader.buffers[0], MockBuffer(room, 513, isWritable: true)])
        let read = try #require(harness.serve(try disk()))
        #expect(read.length == 512)
        #expect(VirtioBlk.finish(harness.queue.chain(Int(read.slot)), .ok) == 513)
        #expect(harness.status(room + 512) == 0)
    }

    @Test func anUnalignedHeaderIsRead() throws {
        let harness = try QueueHarness(.split)
        let base = try harness.buffer(32) + 3
        harness.writeHeader(at: base, type: 0, sector: 9)
        let parts = try harness.request()
        harness.driver.publish([MockBuffer(base, 16, isWritable: false)] + parts.buffers[1...])
        #expect(harness.serve(try disk())?.guest == GuestOffset(9 * 512))
    }

    @Test func theHeaderIsReadOnce() throws {
        let harness = try QueueHarness(.split)
        let parts = try harness.request(type: 0, sector: 1)
        harness.driver.publish(parts.buffers)
        let request = try #require(harness.serve(try disk()))
        harness.writeHeader(at: parts.buffers[0].address, type: 1, sector: 1 << 40)
        #expect(request.guest == GuestOffset(512))
    }

    @Test(
        arguments: [
            (UInt64(0), 511), (0, 1), (2048, 512), (2047, 1024), (1 << 55, 512), (.max, 512), (1 << 63, 512),
        ] as [(UInt64, Int)])
    func readsOfOddLengthOrOutsideTheDiskAreIOErrors(sector: UInt64, data: Int) throws {
        #expect(try answer(type: 0, sector: sector, data: data, disk: disk()) == 1)
        #expect(try answer(type: 1, sector: sector, data: data, disk: disk()) == 1)
    }

    @Test func theLastSectorIsInsideAndAnEmptyRequestIsFine() throws {
        #expect(try answer(type: 0, sector: 2047, disk: disk()) == nil)
        #expect(try answer(type: 0, sector: 2048, data: 0, disk: disk()) == 0)
        #expect(try answer(type: 0, sector: 2049, data: 0, disk: disk()) == 1)
    }

    @Test func aStartInsideABlockIsAnIOError() throws {
        #expect(try answer(type: 0, sector: 1, data: 4096, disk: disk(block: 4096)) == 1)
        #expect(try answer(type: 0, sector: 8, data: 4096, disk: disk(block: 4096)) == nil)
    }

    @Test func changesOfAReadOnlyDiskAreIOErrors() throws {
        #expect(try answer(type: 1, disk: disk(readOnly: true)) == 1)
        #expect(try answer(type: 11, payload: segment(0, 1, 0), disk: disk(readOnly: true)) == 1)
        #expect(try answer(type: 13, payload: segment(0, 1, 0), disk: disk(readOnly: true)) == 1)
        #expect(try answer(type: 0, disk: disk(readOnly: true)) == nil)
        #expect(try answer(type: 4, data: 0, disk: disk(readOnly: true)) == nil)
    }

    @Test(arguments: [2, 3, 5, 7, 9, 10, 12, 14, 16, 26, 0x100, 0x7FFF_FFFF] as [UInt32])
    func unknownTypesAreUnsupported(_ type: UInt32) throws {
        #expect(try answer(type: type, disk: disk()) == 2)
    }

    @Test func theBarrierFlagIsIgnoredAsInQEMU() throws {
        #expect(try answer(type: 0x8000_0004, data: 0, disk: disk()) == nil)
        #expect(try answer(type: 0x8000_0001, disk: disk()) == nil)
        #expect(try answer(type: 0x8000_000B, payload: segment(0, 1, 0), disk: disk()) == 1)
        #expect(try answer(type: 0x8000_000D, payload: segment(0, 1, 0), disk: disk()) == 1)
    }

    @Test func aFlushHasNoRange() throws {
        let harness = try QueueHarness(.split)
        let parts = try harness.request(type: 4, sector: .max, data: 0)
        harness.driver.publish([parts.buffers[0], parts.buffers[2]])
        let request = try #require(harness.serve(try disk()))
        #expect(request.operation == .flush)
        #expect(request.length == 0)
        #expect(request.iovecs == nil)
    }

    @Test(arguments: [20, 8, 9, 3, 64])
    func theSerialIsGivenAsFarAsThereIsRoom(_ room: Int) throws {
        let harness = try QueueHarness(.split)
        let parts = try harness.request(type: 8, data: room)
        harness.memory.write([UInt8](repeating: 0x55, count: room), at: parts.data)
        harness.driver.publish(parts.buffers)
        #expect(harness.serve(try disk()) == nil)
        #expect(harness.status(parts.status) == 0)
        let serial = Array("serial-1".utf8) + [0]
        let expected = Array(serial.prefix(room)) + [UInt8](repeating: 0x55, count: max(0, room - serial.count))
        #expect(harness.memory.read(room, at: parts.data) == expected)
    }

    @Test(
        arguments: [
            (UInt64(0), UInt32(2049), UInt32(0), UInt8(1)), (2048, 1, 0, 1), (0, 32769, 0, 1), (0, .max, 0, 1),
            (.max, 1, 0, 1), (0, 1, 2, 2), (0, 1, 0x8000_0000, 2), (0, 32769, 2, 1), (0, 0, 0, 0),
        ] as [(UInt64, UInt32, UInt32, UInt8)])
    func discardAndWriteZeroesAreCheckedInQEMUsOrder(
        sector: UInt64, count: UInt32, flags: UInt32, status: UInt8
    ) throws {
        for type in [UInt32(11), 13] {
            #expect(try answer(type: type, payload: segment(sector, count, flags), disk: disk()) == status)
        }
    }

    @Test func discardWithUnmapIsUnsupportedAndWriteZeroesHonoursIt() throws {
        #expect(try answer(type: 11, payload: segment(0, 1, 1), disk: disk()) == 2)
        let harness = try QueueHarness(.split)
        let parts = try harness.request(type: 13, data: 16)
        harness.memory.write(segment(8, 16, 1), at: parts.data)
        harness.driver.publish(parts.buffers)
        let request = try #require(harness.serve(try disk()))
        #expect(request.operation == .writeZeroes)
        #expect(request.mayUnmap)
        #expect(request.guest == GuestOffset(4096))
        #expect(request.length == 8192)
    }

    @Test func moreThanOneSegmentIsUnsupportedAndLessIsAnIOError() throws {
        let one = segment(0, 1, 0)
        #expect(try answer(type: 11, payload: one + one, disk: disk()) == 2)
        #expect(try answer(type: 11, payload: one + [0], disk: disk()) == 2)
        #expect(try answer(type: 11, payload: Array(one.prefix(15)), disk: disk()) == 1)
        #expect(try answer(type: 13, payload: [], disk: disk()) == 1)
    }

    @Test(arguments: Kind.both) func aHeaderCutShortIsAnIOError(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let parts = try harness.request()
        harness.driver.publish([MockBuffer(parts.buffers[0].address, 15, isWritable: false)] + parts.buffers[1...])
        #expect(harness.serve(try disk()) == nil)
        #expect(harness.status(parts.status) == 1)
        #expect(harness.driver.collect().count == 1)
    }

    @Test(arguments: Kind.both) func aRequestWithoutWritableBufferComesBackBare(_ kind: Kind) throws {
        let harness = try QueueHarness(kind)
        let parts = try harness.request()
        harness.driver.publish([parts.buffers[0]])
        #expect(harness.serve(try disk()) == nil)
        #expect(harness.driver.collect().map(\.written) == [0])
    }

    @Test func theConfigurationSpaceHasWhatQEMUsHas() throws {
        let bytes = try disk(block: 4096).configuration()
        func value(_ offset: Int, _ width: Int) -> UInt64 {
            bytes[offset..<offset + width].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        #expect(bytes.count == 60)
        #expect(value(0, 8) == 2048)
        #expect(value(12, 4) == 126)
        #expect(value(20, 4) == 4096)
        #expect(value(34, 2) == 1)
        #expect(value(36, 4) == 32768)
        #expect(value(44, 4) == 8)
        #expect(bytes[32] == 0, "write-through until the guest says otherwise")
        #expect(try disk().configuration(count: 96).count == 96)
        #expect(try disk().configuration(count: 8).count == 8)
    }

    @Test func onlyTheCacheModeCanBeWritten() throws {
        var disk = try disk()
        let taken = disk.write(configuration: [1], at: 32)
        #expect(taken && disk.isWriteback)
        let refused = [
            disk.write(configuration: [2], at: 32), disk.write(configuration: [0, 0], at: 32),
            disk.write(configuration: [0], at: 0),
        ]
        #expect(refused == [false, false, false])
        #expect(disk.isWriteback)
    }

    @Test(arguments: [0, 511, 768, 4095] as [UInt32]) func blockSizesThatAreNoneAreRefused(_ size: UInt32) {
        #expect(VirtioBlkDisk(capacityBytes: 1 << 20, blockSize: size) == nil)
    }
}
