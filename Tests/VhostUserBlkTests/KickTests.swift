// A kick that gets lost is a guest that hangs, once a month. Workers sleep, look and wake in three manners; in each,
// one request after the other goes through, kicked only when the device asks for it.
import DiskTypes
import Foundation
import TestKit
import Testing
import VhostUserBlk
import VhostUserFrontend
import VhostUserWire
import Virtqueue
import VirtqueueMock
import SystemPackage

@Suite("Kicks and polling")
struct KickTests {
    /// Requests of depth 1 on one queue; at times with a pause that lets the worker fall asleep at every moment there is.
    private func oneByOne(_ queueDriver: QueueDriver, _ count: Int) throws -> String? {
        let place = try #require(queueDriver.memory.allocate(8192))
        queueDriver.memory.putHeader(type: VirtioBlk.RequestType.getID, sector: 0, at: place)
        let buffers = [
            MockBuffer(place, 16, isWritable: false), MockBuffer(place + 4096, 20, isWritable: true),
            MockBuffer(place + 4200, 1, isWritable: true),
        ]
        for i in 0..<count {
            guard queueDriver.driver.publish(buffers) != nil else { return "no room at \(i)" }
            queueDriver.kick()
            while queueDriver.driver.nextUsedBuffer() == nil {
                if queueDriver.driver.enableSignals() { continue }
                guard try queueDriver.queue.call.wait(milliseconds: 5000) else {
                    return
                        "request \(i) is not answered in 5 s; \(queueDriver.driver.hasUsed ? "a call" : "a kick") got lost"
                }
                queueDriver.queue.call.take()
            }
            // Spins of every length up to what the worker looks.
            for _ in 0..<(i % 97) * (i % 7) { queueDriver.memory.byteBarrier() }
        }
        return nil
    }

    @Test(arguments: PollMode.allCases, Rings.allCases)
    func noKickIsLost(poll: PollMode, rings: Rings) throws {
        let served = try Served(workers: 1, poll: poll)
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()), rings.options)
        let queueDriver = try QueueDriver(frontend)
        try frontend.start()
        #expect(try oneByOne(queueDriver, 5000) == nil)
        try frontend.stop()
    }

    @Test(arguments: PollMode.allCases)
    func twentyThousandOneByOne(poll: PollMode) throws {
        let served = try Served(workers: 1, poll: poll)
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()), Rings.splitEvent.options)
        let queueDriver = try QueueDriver(frontend)
        try frontend.start()
        #expect(try oneByOne(queueDriver, 20_000) == nil)
        try frontend.stop()
    }

    /// All that a session asks of a worker that has nothing else to do.
    @Test(arguments: PollMode.allCases)
    func anIdleWorkerObeys(poll: PollMode) throws {
        let served = try Served(workers: 1, poll: poll)
        let (frontend, clients) = try VhostUserFrontend.running(try served.disk())
        #expect(try clients[0].perform(.getID).isOK)
        usleep(50_000)
        for _ in 0..<20 {
            try frontend.ask(.setVringEnable, VringState(index: 0, num: 0))
            try frontend.ask(.setVringEnable, VringState(index: 0, num: 1))
        }
        try frontend.stop()
        served.stop()
    }

    @Test(arguments: PollMode.allCases)
    func aRingWithoutKickDescriptorIsPolled(poll: PollMode) throws {
        let served = try Served(workers: 1, poll: poll)
        let frontend = try VhostUserFrontend.connect(try FilePath(served.disk()))
        let queueDriver = try QueueDriver(frontend)
        try frontend.start()
        try frontend.ask(.setVringKick, VringEvent(index: 0, hasDescriptor: false))
        #expect(try oneByOne(queueDriver, 200) == nil)
        try frontend.stop()
    }

    @Test func aRingWithoutCallDescriptorIsServed() throws {
        let served = try Served(workers: 1)
        let (frontend, clients) = try VhostUserFrontend.running(try served.disk())
        try frontend.ask(.setVringCall, VringEvent(index: 0, hasDescriptor: false))
        let id = try clients[0].begin(.getID)
        clients[0].kickIfNeeded()
        let end = Date(timeIntervalSinceNow: 10)
        while clients[0].collect() > 0, Date() < end { usleep(100) }
        #expect(try clients[0].finish(id).isOK)
        try frontend.stop()
    }
}

extension DriverMemory {
    /// Takes a little time.
    @inline(never) func byteBarrier() { fullFence() }
}

@Suite(
    "Idle workers", .disabled(if: DiskServer.isPeer || DiskServer.missing != nil, "\(Tools.qblkReason)"))
struct IdleTests {
    /// Nanoseconds that the workers of a process have run.
    private func workerTime(_ pid: Int32) throws -> Int {
        var total = 0
        for task in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task") {
            let folder = "/proc/\(pid)/task/\(task)"
            guard let name = try? String(contentsOfFile: "\(folder)/comm", encoding: .utf8),
                name.hasPrefix("qblk-worker")
            else { continue }
            let text = try String(contentsOfFile: "\(folder)/schedstat", encoding: .utf8)
            total += Int(text.split(separator: " ").first ?? "") ?? 0
        }
        return total
    }
    static let measures = access("/proc/self/schedstat", R_OK) == 0

    @Test(.enabled(if: measures, "needs a kernel with schedstats"), arguments: ["off", "adaptive"])
    func burnNothing(poll: String) throws {
        let program = try Program(queues: 2, options: ["--poll", poll, "--workers", "2"])
        let (frontend, clients) = try VhostUserFrontend.running(program.server.socket, queues: 2)
        for _ in 0..<500 { #expect(try clients[0].perform(.read(sector: 3, count: 4096)).isOK) }
        let pid = try #require(frontend.connection.peer)
        usleep(20_000)
        let before = try workerTime(pid)
        usleep(300_000)
        let spent = try workerTime(pid) - before
        #expect(spent < 30_000_000, "\(spent / 1000) us")
        #expect(try clients[1].perform(.read(sector: 3, count: 4096)).isOK)
    }
}
