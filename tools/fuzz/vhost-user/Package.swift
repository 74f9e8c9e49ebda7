// swift-tools-version: 6.3
// The fuzzer of vhost-user sessions, apart from the product it looks at. It needs a sanitizer:
// `swift build -c release --sanitize fuzzer`; `run` beside this file does it all.
import PackageDescription

let package = Package(
    name: "fuzz-vhost-user",
    dependencies: [
        .package(name: "qblk", path: "../../.."),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    ],
    targets: [
        .executableTarget(
            name: "FuzzMessages",
            dependencies: [
                .product(name: "VhostUserParts", package: "qblk"), .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: [.unsafeFlags(["-parse-as-library"])])
    ],
    swiftLanguageModes: [.v6]
)
