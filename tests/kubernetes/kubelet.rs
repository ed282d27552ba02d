//! A double of the kubelet's pod-resources service: gRPC on a socket, with one pod's devices.

use std::thread;

use http::{HeaderMap, Response};
use tokio::net::UnixListener;

use crate::support::Case;

/// A running kubelet. It is stopped with the test's process.
pub(super) struct Kubelet;

impl Kubelet {
    /// Starts a kubelet with the devices of pod `web/shop`: the IDs of each resource. Older kubelets have no `Get`.
    pub(super) fn start(case: &Case, has_get: bool, devices: &[(&str, &[&str])]) {
        Self::start_with_claims(case, has_get, devices, &[]);
    }

    /// The same with prepared claims of the pod: each device as driver, pool and name.
    pub(super) fn start_with_claims(
        case: &Case,
        has_get: bool,
        devices: &[(&str, &[&str])],
        claims: &[(&str, &[[&str; 3]])],
    ) {
        let socket = case.dir().join("kubelet.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("listen");
        listener.set_nonblocking(true).expect("do not block");
        let devices = devices.iter().flat_map(|(resource, ids)| {
            let ids = ids.iter().flat_map(|id| field(2, id.as_bytes()));
            field(2, &[field(1, resource.as_bytes()), ids.collect()].concat())
        });
        let claims = claims.iter().flat_map(|(claim, devices)| {
            let resources = devices.iter().flat_map(|[driver, pool, device]| {
                let cdi = field(1, &field(1, b"vendor.com/nic=0"));
                let names = [field(2, driver.as_bytes()), field(3, pool.as_bytes()), field(4, device.as_bytes())];
                field(4, &[cdi, names.concat()].concat())
            });
            field(5, &[field(2, claim.as_bytes()), field(3, b"web"), resources.collect()].concat())
        });
        let container = [field(1, b"main"), devices.collect(), claims.collect()].concat();
        let pod = |name: &str, rest: &[u8]| [field(1, name.as_bytes()), field(2, b"web"), rest.to_vec()].concat();
        let shop = field(1, &pod("shop", &field(3, &container)));
        let list = [field(1, &pod("other", b"")), shop.clone()].concat();
        let get = has_get.then_some(shop);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    drop(serve(stream, get.as_deref(), &list).await);
                }
            });
        });
    }
}

/// A field of a message: text, bytes or another message.
fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag << 3 | 2];
    let mut length = value.len();
    while length > 127 {
        bytes.push(u8::try_from(length % 128).expect("7 bits") | 128);
        length /= 128;
    }
    bytes.push(u8::try_from(length).expect("7 bits"));
    bytes.extend_from_slice(value);
    bytes
}

async fn serve(stream: tokio::net::UnixStream, get: Option<&[u8]>, list: &[u8]) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let message = match request.uri().path() {
            "/v1.PodResourcesLister/Get" => get,
            "/v1.PodResourcesLister/List" => Some(list),
            other => panic!("{other} is no method of the service"),
        };
        let response = Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
        let mut stream = respond.send_response(response, false)?;
        if let Some(message) = message {
            let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
            stream.send_data([&[0], &length[..], message].concat().into(), false)?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", if message.is_some() { "0" } else { "12" }.parse().expect("a header"));
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
