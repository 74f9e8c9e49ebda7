// swift-tools-version: 6.3
// The targets by floors, lowest first (ARCHITECTURE.md). A target imports lower floors only; tools/lint holds it.
import PackageDescription

/// Swift 6 mode everywhere, with the upcoming features that cost nothing. MemberImportVisibility is left out on
/// purpose: with a C module in reach, release builds fail on glibc types (sigset_t) that only Glibc defines.
let common: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("InferIsolatedConformances"),
]
/// Everything that is shipped: each expression that the compiler cannot prove to be memory-safe is marked `unsafe`.
let strict: [SwiftSetting] = common + [.strictMemorySafety()]
/// Where requests run, classes confined to one thread hold hot state; the compiler's exclusivity checks at run time
/// would cost 500 instructions a request and guard nothing there.
let unchecked: SwiftSetting = .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))
let hot: [SwiftSetting] = strict + [unchecked]

/// What tests run millions of times: a debug build of it takes ten times as long, and finds nothing more (every check of
/// arithmetic, index and precondition stays).
let fast: SwiftSetting = .unsafeFlags(["-O"], .when(configuration: .debug))

/// `make cost` drives a worker step by step, with a file and a target that no other build has.
let measuresCost = Context.environment["QBLK_COST"] != nil

let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "qblk",
    products: [
        .library(name: "QCOW2", targets: ["DiskTypes", "QCOW2"]),
        .library(name: "DiskImages", targets: ["ImageChain", "ImageOperations"]),
        .library(
            name: "BlockServing",
            targets: ["Virtqueue", "BlockEngine", "VhostUserBlk", "FuseExport", "DeviceMapperMap"]),
        // For tools/fuzz/virtqueue and tools/cost/virtqueue.
        .library(name: "VirtqueueParts", targets: ["DiskTypes", "Virtqueue", "VirtqueueMock"]),
        // For tools/fuzz/vhost-user.
        .library(
            name: "VhostUserParts",
            targets: [
                "VhostUserBlk", "VhostUserFrontend", "VhostUserClient", "VhostUserWire", "Virtqueue", "ImageChain",
                "LinuxIO",
            ]),
        .executable(name: "qblk", targets: ["qblk"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    ],
    targets: [
        // C: every C header behind one module (several system modules conflict over glibc's feature macros)
        .target(
            name: "CQblk",
            linkerSettings: [
                .linkedLibrary("uring"), .linkedLibrary("devmapper"), .linkedLibrary("deflate"),
                .linkedLibrary("isal"), .linkedLibrary("zstd"), .linkedLibrary("z"),
            ]),
        // 0 words
        .target(name: "DiskTypes", swiftSettings: strict),
        // 1 parts
        .target(name: "QCOW2", dependencies: ["DiskTypes"], swiftSettings: strict + [fast]),
        .target(name: "VhostUserWire", swiftSettings: strict),
        .target(name: "ClusterCodec", dependencies: ["DiskTypes", "CQblk"], swiftSettings: hot),
        .target(name: "LinuxIO", dependencies: ["DiskTypes", "CQblk", system], swiftSettings: hot),
        .target(name: "Virtqueue", dependencies: ["DiskTypes"], swiftSettings: hot),
        // 2 chain
        .target(name: "ImageChain", dependencies: ["QCOW2", "LinuxIO", "DiskTypes", system], swiftSettings: hot),
        .target(name: "VirtqueueMock", dependencies: ["Virtqueue"], swiftSettings: hot),
        .target(name: "MapRegistry", dependencies: ["LinuxIO", "DiskTypes", system], swiftSettings: strict),
        .target(name: "QEMUMonitor", dependencies: ["LinuxIO", "DiskTypes", system], swiftSettings: strict),
        // 3 engine
        .target(
            name: "BlockEngine", dependencies: ["ImageChain", "ClusterCodec", "LinuxIO", "DiskTypes"],
            swiftSettings: hot),
        .target(
            name: "VhostUserFrontend",
            dependencies: ["VhostUserWire", "Virtqueue", "LinuxIO", "DiskTypes", system],
            swiftSettings: hot),
        // 4 doors
        .target(
            name: "FuseExport",
            dependencies: [
                "BlockEngine", "ImageChain", "QCOW2", "MapRegistry", "LinuxIO", "DiskTypes", "CQblk", system, logging,
            ],
            swiftSettings: hot),
        .target(
            name: "VhostUserBlk",
            dependencies: [
                "VhostUserWire", "Virtqueue", "BlockEngine", "ImageChain", "QCOW2", "LinuxIO", "DiskTypes", system,
                logging,
            ],
            exclude: measuresCost ? [] : ["Worker/SingleStepWorker.swift"], swiftSettings: hot),
        .target(
            name: "DeviceMapperMap",
            dependencies: [
                "BlockEngine", "ImageChain", "MapRegistry", "LinuxIO", "DiskTypes", "CQblk", system, logging,
            ],
            swiftSettings: strict),
        .target(
            name: "HotPlug",
            dependencies: [
                "ImageChain", "MapRegistry", "QEMUMonitor", "VhostUserWire", "LinuxIO", "DiskTypes", system,
            ],
            swiftSettings: strict),
        .target(
            name: "BlockBench",
            dependencies: [
                "VhostUserFrontend", "BlockEngine", "ImageChain", "Virtqueue", "LinuxIO", "DiskTypes", system,
            ],
            swiftSettings: hot),
        .target(
            name: "ImageOperations",
            dependencies: ["BlockEngine", "ImageChain", "ClusterCodec", "QCOW2", "LinuxIO", "DiskTypes", system],
            swiftSettings: hot),
        // 5 command
        .executableTarget(
            name: "qblk",
            dependencies: [
                "FuseExport", "DeviceMapperMap", "VhostUserBlk", "HotPlug", "BlockBench", "ImageOperations",
                "BlockEngine",
                "ImageChain", "MapRegistry", "QCOW2", "LinuxIO", "DiskTypes", system, logging, arguments,
            ],
            swiftSettings: strict),
        // tests
        .testTarget(
            name: "BlockBenchTests",
            dependencies: ["BlockBench", "VhostUserFrontend", "Virtqueue", "LinuxIO", "DiskTypes", "TestKit", system],
            swiftSettings: common),
        .testTarget(
            name: "BlockEngineTests",
            dependencies: [
                "BlockEngine", "CountAllocations", "FailCalls", "ImageChain", "LinuxIO", "DiskTypes", "TestKit", system,
            ],
            swiftSettings: common + [fast]),
        .target(name: "CountAllocations", path: "Tests/CountAllocations"),
        .target(name: "FailCalls", path: "Tests/FailCalls"),
        .testTarget(
            name: "ClusterCodecTests", dependencies: ["ClusterCodec", "CQblk", "DiskTypes", "TestKit"],
            swiftSettings: common),
        .testTarget(
            name: "DeviceMapperMapTests",
            dependencies: ["DeviceMapperMap", "ImageChain", "MapRegistry", "LinuxIO", "DiskTypes", system],
            swiftSettings: common),
        .testTarget(
            name: "FuseExportTests",
            dependencies: [
                "FuseExport", "ImageChain", "MapRegistry", "LinuxIO", "DiskTypes", "CQblk", "TestKit", system,
            ],
            swiftSettings: common),
        .testTarget(
            name: "MapRegistryTests", dependencies: ["MapRegistry", "LinuxIO", "DiskTypes", system],
            swiftSettings: common),
        .testTarget(
            name: "LinuxIOTests", dependencies: ["LinuxIO", "DiskTypes", "CQblk", "TestKit", system],
            swiftSettings: common),
        .testTarget(
            name: "QEMUMonitorTests", dependencies: ["QEMUMonitor", "DiskTypes", "TestKit", system],
            swiftSettings: common),
        // A back-end's client for tests and fuzzers: a front-end with a queue and a driver.
        .target(
            name: "VhostUserClient",
            dependencies: ["VhostUserFrontend", "Virtqueue", "VirtqueueMock", "LinuxIO", "DiskTypes", system],
            path: "Tests/VhostUserClient", swiftSettings: common + [unchecked]),
        .target(name: "TestKit", path: "Tests/TestKit", swiftSettings: common + [fast]),
        .testTarget(
            name: "EndToEndTests", dependencies: ["TestKit"], path: "Tests/EndToEndTests", swiftSettings: common),
        .testTarget(
            name: "ImageOperationsTests", dependencies: ["ImageOperations", "ImageChain", "DiskTypes", system],
            swiftSettings: common),
        .testTarget(
            name: "VhostUserBlkTests",
            dependencies: [
                "VhostUserBlk", "VhostUserClient", "VhostUserFrontend", "VhostUserWire", "Virtqueue", "VirtqueueMock",
                "ImageChain",
                "CountAllocations", "LinuxIO", "DiskTypes", "TestKit", system, logging,
            ],
            swiftSettings: common),
        .testTarget(
            name: "VhostUserFrontendTests",
            dependencies: [
                "VhostUserClient", "VhostUserFrontend", "VhostUserWire", "Virtqueue", "LinuxIO", "DiskTypes", "TestKit",
                system,
            ],
            swiftSettings: common),
        .testTarget(name: "VhostUserWireTests", dependencies: ["VhostUserWire"], swiftSettings: common),
        .testTarget(
            name: "VirtqueueTests",
            dependencies: ["Virtqueue", "VirtqueueMock", "CountAllocations", "DiskTypes", "TestKit"],
            swiftSettings: common),
        .testTarget(name: "QCOW2Tests", dependencies: ["QCOW2", "DiskTypes", "TestKit"], swiftSettings: common),
        .testTarget(
            name: "QCOW2WriterTests", dependencies: ["QCOW2", "DiskTypes", "TestKit"], swiftSettings: common + [fast]),
    ]
)

if measuresCost {
    // Never shipped: what a request costs, counted by callgrind (in this package, for what is `package` in it).
    package.targets.append(
        .executableTarget(
            name: "WorkerCost",
            dependencies: ["VhostUserBlk", "Virtqueue", "VirtqueueMock", "ImageChain", "DiskTypes", system],
            path: "tools/cost/worker", exclude: ["cost", "cost.tsv"], swiftSettings: common + [unchecked]))
}
